"""Through the gateway go the routes that sites need, and nothing else, however it is written."""

import asyncio
from ipaddress import ip_network

import httpx
import pytest

from medseg.federation.gateway import FLEET, MOST_BODY, Gateway

SEEN: list[httpx.Request] = []


async def superlink(request: httpx.Request) -> httpx.Response:
    SEEN.append(request)
    return httpx.Response(
        200, content=b"reply", headers={"content-type": "application/x-protobuf", "set-cookie": "a=b"}
    )


def ask(
    method: str,
    path: str,
    content: bytes = b"",
    headers: dict[str, str] | None = None,
    client: str = "192.0.2.7",
    **settings: object,
) -> httpx.Response:
    SEEN.clear()
    gateway = Gateway("https://127.0.0.1:9092", transport=httpx.MockTransport(superlink), **settings)  # type: ignore[arg-type]

    async def through() -> httpx.Response:
        transport = httpx.ASGITransport(app=gateway, client=(client, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="https://coordinator") as sender:
            return await sender.request(method, path, content=content, headers=headers)

    return asyncio.run(through())


@pytest.mark.parametrize("name", FLEET)
def test_what_sites_need_goes_through(name: str) -> None:
    reply = ask(
        "POST", f"/v1/fleet/{name}", b"question", {"flwr-public-key": "key", "content-type": "application/x-protobuf"}
    )
    assert (reply.status_code, reply.content) == (200, b"reply")
    (seen,) = SEEN
    assert str(seen.url) == f"https://127.0.0.1:9092/v1/fleet/{name}"
    assert (seen.content, seen.headers["flwr-public-key"]) == (b"question", "key")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/register-node"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/runtime/pull-messages"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("GET", "/v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/../control/start-run"),
        ("POST", "/v1/fleet/%2e%2e/control/start-run"),
        ("POST", "/v1/fleet/..%2fcontrol%2fstart-run"),
        ("POST", "//v1/control/start-run"),
        ("POST", "/V1/FLEET/pull-messages"),
        ("POST", "/v1/fleet/pull-messages%00"),
        ("POST", "/health"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
    ],
)
def test_everything_else_ends_at_the_gateway_and_is_told(method: str, path: str) -> None:
    told: list[str] = []
    assert ask(method, path, b"x", tell=told.append).status_code == 404
    assert SEEN == []
    assert len(told) == 1
    assert "\n" not in told[0]


def test_health_goes_through_and_a_query_does_not() -> None:
    assert ask("GET", "/health?next=/v1/control/start-run").status_code == 200
    assert str(SEEN[0].url) == "https://127.0.0.1:9092/health"


def test_only_known_headers_pass_in_either_direction() -> None:
    reply = ask(
        "POST", "/v1/fleet/get-run", b"", {"cookie": "secret", "x-forwarded-for": "127.0.0.1", "flwr-signature": "s"}
    )
    assert "cookie" not in SEEN[0].headers
    assert "x-forwarded-for" not in SEEN[0].headers
    assert SEEN[0].headers["flwr-signature"] == "s"
    assert "set-cookie" not in reply.headers


def test_a_body_beyond_the_limit_is_refused() -> None:
    assert ask("POST", "/v1/fleet/push-object", bytes(MOST_BODY + 1)).status_code == 413
    assert SEEN == []


@pytest.mark.parametrize(("client", "status"), [("192.0.2.7", 200), ("198.51.100.1", 403), ("not an address", 403)])
def test_only_the_allowed_networks_get_in(client: str, status: int) -> None:
    networks = [ip_network("192.0.2.0/24")]
    assert ask("POST", "/v1/fleet/get-run", client=client, networks=networks).status_code == status


def test_a_superlink_that_is_down_is_a_bad_gateway_and_no_traceback() -> None:
    async def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    gateway = Gateway("https://127.0.0.1:9092", transport=httpx.MockTransport(down))

    async def through() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway), base_url="https://c") as sender:
            return await sender.get("/health")

    assert asyncio.run(through()).status_code == 502


def test_what_sites_send_can_be_kept_for_an_audit() -> None:
    kept: list[bytes] = []
    ask("POST", "/v1/fleet/push-object", b"all of it", keep=kept.append)
    assert kept == [b"all of it"]
