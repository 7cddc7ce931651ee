"""The admin port: status page, metrics, health. `server` is the port, `page` what `/` shows."""

from newsloom.adapters.http.server import (
    MAX_HEAD_BYTES,
    Handler,
    Request,
    Response,
    StatusSource,
    admin_routes,
    metrics_route,
    serve_admin,
)

__all__ = [
    "MAX_HEAD_BYTES",
    "Handler",
    "Request",
    "Response",
    "StatusSource",
    "admin_routes",
    "metrics_route",
    "serve_admin",
]
