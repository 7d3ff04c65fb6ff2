"""Messages arrive as they were sent, or are refused by a code."""

import numpy as np
import pytest

from medseg.errors import SiteError
from medseg.federation.messages import Reply, Request, hash_arrays

ARRAYS = {
    "w.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scalar": np.array(3.5, np.float64),
    "counts": np.array([1, 2, 3], np.uint32),
    "none": np.zeros((0, 4), np.float16),
}
REQUEST = Request("train", "run-1", 3, "a" * 64, {"rate": 0.1, "names": ["a", None, True]}, ARRAYS)


def test_a_request_arrives_as_it_was_sent() -> None:
    arrived = Request.from_bytes(REQUEST.to_bytes())
    assert (arrived.action, arrived.run, arrived.round, arrived.plan_sha256) == ("train", "run-1", 3, "a" * 64)
    assert arrived.header == REQUEST.header
    for name, array in ARRAYS.items():
        assert arrived.arrays[name].dtype == array.dtype
        assert arrived.arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrived.arrays[name], array)
    assert hash_arrays(arrived.arrays) == hash_arrays(ARRAYS)


def test_a_reply_arrives_as_it_was_sent() -> None:
    for reply in (Reply("north", "train", 2, {"cases": 7}, ARRAYS), Reply("north", "train", 2, error="out-of-memory")):
        arrived = Reply.from_bytes(reply.to_bytes())
        assert (arrived.site, arrived.error, arrived.header) == (reply.site, reply.error, reply.header)
        assert hash_arrays(arrived.arrays) == hash_arrays(reply.arrays)


def test_equal_messages_have_equal_bytes() -> None:
    turned = Request(
        "train", "run-1", 3, "a" * 64, dict(reversed(REQUEST.header.items())), dict(sorted(ARRAYS.items()))
    )
    assert turned.to_bytes() == REQUEST.to_bytes()


def test_the_hash_of_arrays_sees_names_types_shapes_and_values() -> None:
    one = {"a": np.zeros(4, np.float32)}
    others = [
        {"b": one["a"]},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.array([0, 0, 0, 1], np.float32)},
    ]
    assert len({hash_arrays(arrays) for arrays in [one, *others]}) == 5


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"action": "Train!"}, "bad-message-action"),
        ({"run": "../etc"}, "bad-message-run"),
        ({"round": -1}, "bad-message-round"),
        ({"round": True}, "bad-message-round"),
        ({"plan_sha256": "abc"}, "bad-message-plan"),
        ({"header": {"x": float("nan")}}, "bad-message-header"),
        ({"header": {"x": object()}}, "bad-message-header"),
        ({"arrays": {"../x": np.zeros(1)}}, "bad-message-arrays"),
        ({"arrays": {"x": np.array(["text"])}}, "bad-message-arrays"),
        ({"arrays": {"x": np.array([None])}}, "bad-message-arrays"),
        ({"arrays": {"x": [1, 2]}}, "bad-message-arrays"),
    ],
)
def test_what_is_no_message_can_not_be_made(bad: dict, code: str) -> None:
    with pytest.raises(SiteError, match=f"^{code}$"):
        Request(**{"action": "train", "run": "run-1", "round": 0, "plan_sha256": "", **bad})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: b"", "bad-message-version"),
        (lambda data: data.replace(b"federation-1", b"federation-2"), "bad-message-version"),
        (lambda data: data[:25], "bad-message-length"),
        (lambda data: data[:-1], "bad-message-arrays"),
        (lambda data: data.replace(b'"rate":0.1', b'"rate":NaN'), "bad-message-header"),
        (lambda data: data.replace(b'"rate":0.1', b'"run":"abc"'[:10]), "bad-message-header"),
        (lambda data: data.replace(b'"kind":"request"', b'"kind":"requesx"'), "bad-message-fields"),
        (lambda data: data.replace(b'"kind":"request"', b'"kind":"reply!!"'), "bad-message-fields"),
        (lambda data: data.replace(b'"round":3', b'"round":"'), "bad-message-header"),
        (lambda data: data.replace(b'"action":"train"', b'"action":"../.."'), "bad-message-action"),
    ],
)
def test_what_arrives_damaged_is_refused_by_a_code(change, code: str) -> None:
    with pytest.raises(SiteError, match=f"^{code}$"):
        Request.from_bytes(change(REQUEST.to_bytes()))


def test_a_key_given_twice_is_refused() -> None:
    data = Reply("north", "train", 2, {"a": 1, "b": 2}).to_bytes()
    with pytest.raises(SiteError, match="bad-message-header"):
        Reply.from_bytes(data.replace(b'"b":2', b'"a":2'))
