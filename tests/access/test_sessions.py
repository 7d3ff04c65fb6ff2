"""Sessions end when unused, after a day in any case, and at once when signed out; wrong passwords cost time."""

from medseg.access.sessions import Sessions
from medseg.access.throttle import FREE, LONGEST, Throttle


class Clock:
    """A clock that stands still until it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_lives_while_it_is_used_and_ends_when_it_is_not():
    clock = Clock()
    sessions = Sessions(idle=60, longest=1000, clock=clock)
    token = sessions.begin("anna")
    for _ in range(5):
        clock.now += 50
        assert sessions.user(token) == "anna"
    clock.now += 61
    assert sessions.user(token) is None
    assert sessions.user(token) is None


def test_a_look_that_is_no_use_does_not_prolong_a_session():
    clock = Clock()
    sessions = Sessions(idle=60, longest=1000, clock=clock)
    token = sessions.begin("anna")
    clock.now += 50
    assert sessions.user(token, use=False) == "anna"
    assert sessions.remaining(token) == 10
    clock.now += 11
    assert sessions.user(token, use=False) is None


def test_even_a_used_session_ends_after_the_longest_time():
    clock = Clock()
    sessions = Sessions(idle=60, longest=100, clock=clock)
    token = sessions.begin("anna")
    clock.now += 50
    assert sessions.user(token) == "anna"
    clock.now += 51
    assert sessions.user(token) is None
    assert sessions.remaining(token) == 0


def test_signing_out_ends_this_session_and_no_other():
    sessions = Sessions(idle=60, longest=100, clock=Clock())
    first, second = sessions.begin("anna"), sessions.begin("anna")
    sessions.end(first)
    assert sessions.user(first) is None
    assert sessions.user(second) == "anna"


def test_a_made_up_token_is_nobodys():
    sessions = Sessions(idle=60, longest=100, clock=Clock())
    sessions.begin("anna")
    assert sessions.user("") is None
    assert sessions.user("x" * 43) is None


def test_waits_begin_after_some_attempts_and_double_up_to_a_limit():
    clock = Clock()
    throttle = Throttle(clock)
    waits = []
    for _ in range(20):
        throttle.failed("anna")
        waits.append(throttle.wait("anna"))
    assert waits[: FREE - 1] == [0.0] * (FREE - 1)
    assert waits[FREE - 1 : FREE + 2] == [2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST
    clock.now += LONGEST
    assert throttle.wait("anna") == 0


def test_the_longer_wait_of_user_and_address_counts_and_success_forgets_it():
    throttle = Throttle(Clock())
    for _ in range(FREE):
        throttle.failed("10.0.0.1")
    assert throttle.wait("anna", "10.0.0.1") == 2.0
    assert throttle.wait("anna") == 0
    throttle.succeeded("anna", "10.0.0.1")
    assert throttle.wait("anna", "10.0.0.1") == 0
