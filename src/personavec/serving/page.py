"""The page at `/`: files as they lie in the folder `page`, without anything that a browser would fetch elsewhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {
    "/" if file.name == "index.html" else f"/page/{file.relative_to(FOLDER).as_posix()}": file
    for file in sorted(FOLDER.rglob("*"))
    if file.suffix in TYPES
}
PATHS = frozenset(FILES)  # asked without a key: nothing in them is a secret, and the page asks for one
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the page and the server are of one version
}


def page_routes() -> APIRouter:
    """The page's files. They are no part of the API that is described."""
    routes = APIRouter(include_in_schema=False)
    for path, file in FILES.items():
        routes.add_api_route(path, _sending(file), methods=["GET", "HEAD"])
    return routes


def _sending(file: Path) -> Callable[[], Awaitable[Response]]:
    kind, content = TYPES[file.suffix], file.read_bytes()

    async def send() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send
