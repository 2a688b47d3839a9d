"""The view that answers permanent links."""

from __future__ import annotations

from functools import cache

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from cbk_app.django.storage import link_app
from cbk_app.links import LinkApp


def answer_link(request: HttpRequest, path: str) -> HttpResponseBase:
    """What the address `path`, below where the links are answered, leads to."""
    answer = _app().answer(request.method or "", path)
    if answer.body is not None:
        return StreamingHttpResponse(answer.chunks(), status=answer.status, headers=answer.headers)
    return HttpResponse(answer.text, status=answer.status, headers=answer.headers)


@cache
def _app() -> LinkApp:
    return link_app()
