"""Only the locked NiiVue is ever installed."""

import pytest

from medseg.errors import MedsegError
from medseg.review.niivue import FILE, fetch, unpack


def test_a_package_that_is_not_the_locked_one_is_refused():
    with pytest.raises(MedsegError, match="should have the hash sha512-"):
        unpack(b"another package")


@pytest.mark.parametrize("registry", ["http://registry.npmjs.org", "file:///tmp", "ftp://mirror"])
def test_it_is_fetched_by_https_only(tmp_path, registry):
    with pytest.raises(MedsegError, match="is not an https address"):
        fetch(tmp_path, registry)
    assert not list(tmp_path.iterdir())


def test_a_registry_that_can_not_be_reached_is_a_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(MedsegError, match="medseg view fetch=true"):
        fetch(tmp_path, "https://127.0.0.1:9")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / FILE).write_text("here")
    assert fetch(tmp_path, "https://127.0.0.1:9").read_text() == "here"
