"""The answer to clients that get no stream: an HTTP response before the WebSocket opens."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from kdasr.serving.service import Service


def client_address(connection: HTTPConnection) -> str:
    """The client's address; behind a proxy on this machine, the one that the proxy forwards."""
    return connection.client.host if connection.client is not None else ""


def refusal(connection: HTTPConnection, service: Service) -> JSONResponse | None:
    """Why a client gets no stream: 401, 403, 429 or 503; None: it gets one."""
    origin, limits, access = connection.headers.get("origin"), service.limits, service.access
    if origin is not None and not access.origins.allows(origin, connection.headers.get("host", "")):
        service.metrics.add_refusal("origin")
        host = urlsplit(origin).netloc or origin
        return problem(403, "origin", f"pages of {host[:100]!r} may not use this server; see --allow-origin")
    if not access.token.admits(connection.headers):
        service.metrics.add_refusal("token")
        return no_token()
    if service.is_draining:
        service.metrics.add_refusal("shutdown")
        return problem(503, "shutdown", "the server is going down", limits.retry_seconds)
    busy = access.addresses.refusal(client_address(connection))
    if busy is not None:
        service.metrics.add_refusal("address")
        return problem(429, "address", *busy)
    if service.is_full:
        service.metrics.add_refusal("full")
        return problem(503, "full", f"{limits.max_streams} streams are open", limits.retry_seconds)
    return None


def no_token() -> JSONResponse:
    """To a request without the server's token."""
    response = problem(401, "token", "this server asks for a token")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def problem(status: int, code: str, message: str, retry: int | None = None) -> JSONResponse:
    """An error as JSON; `retry`: seconds after which the client may try again."""
    headers = {} if retry is None else {"Retry-After": str(retry)}
    return JSONResponse({"type": "error", "code": code, "message": message}, status, headers)
