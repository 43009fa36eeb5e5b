"""The web application: page, health, metrics and the two WebSockets."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

import soundfile
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from kdasr.common.errors import UserError
from kdasr.recognition.audio import Samples
from kdasr.serving.admission import no_token
from kdasr.serving.metrics import CONTENT_TYPE
from kdasr.serving.service import Service
from kdasr.serving.sockets import serve_sherpa, serve_v1

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; media-src blob:; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
"""Content-Security-Policy: the browser itself keeps the page from asking anyone but this server."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Example = Callable[[], tuple[Samples, int]]
"""Gives speech for people without a microphone: mono samples and their rate."""


def build_app(service: Service, example: Example) -> Starlette:
    """The application; it starts and stops the service's engine.

    Args:
        service: models and limits.
        example: called once, when somebody first asks for it. May raise `UserError`.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start(asyncio.get_running_loop())
        yield
        service.engine.stop()

    routes = [
        Route("/", _page),
        Route("/health", _health),
        Route("/metrics", _metrics),
        Route("/example.wav", _Example(example).respond),
        WebSocketRoute("/", serve_sherpa),
        WebSocketRoute("/v1", serve_v1),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.service = service
    app.state.page = (files("kdasr.serving") / "page.html").read_text(encoding="utf-8")
    return app


async def _page(request: Request) -> Response:
    return HTMLResponse(request.app.state.page, headers=HEADERS)


async def _health(request: Request) -> Response:
    """For load balancers and for the page: 200, or 503 while the server goes down."""
    service: Service = request.app.state.service
    status = "draining" if service.is_draining else "full" if service.is_full else "ok"
    content = {
        "status": status,
        "streams": service.num_streams,
        "max_streams": service.limits.max_streams,
        "token": bool(service.access.token),
        "models": [{"name": model.name, "chunk": model.chunk_seconds} for model in service.models],
    }
    # Balancers send no token and get an answer; a page asks with one whether it is right.
    if "authorization" in request.headers and not service.access.token.admits(request.headers):
        return no_token()
    return JSONResponse(content, 503 if service.is_draining else 200, {"Cache-Control": "no-store"})


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    if not service.access.token.admits(request.headers):
        return no_token()
    return PlainTextResponse(service.metrics.text(service.now()), headers={"Content-Type": CONTENT_TYPE})


class _Example:
    """The example as a WAV file, made once."""

    def __init__(self, make: Example) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._file: bytes | None = None

    async def respond(self, request: Request) -> Response:
        """The file, or 404 where there is none."""
        async with self._lock:
            if self._file is None:
                try:
                    self._file = await asyncio.to_thread(self._encoded)
                except UserError as error:
                    return JSONResponse({"type": "error", "code": "no_example", "message": str(error)}, 404)
        return Response(self._file, media_type="audio/wav", headers={"Cache-Control": "no-cache"})

    def _encoded(self) -> bytes:
        samples, rate = self._make()
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
        return file.getvalue()
