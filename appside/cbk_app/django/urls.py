"""Permanent links: `path("cbk-links/", include("cbk_app.django.urls"))`."""

from __future__ import annotations

from django.urls import re_path

from cbk_app.django.views import answer_link

urlpatterns = [re_path(r"^(?P<path>[0-9a-f]+/[A-Za-z0-9_-]+)$", answer_link, name="cbk-link")]
