"""The app as Django knows it."""

from __future__ import annotations

from django.apps import AppConfig


class CbkAppConfig(AppConfig):
    """Its label is `cbk_app`."""

    name = "cbk_app.django"
    label = "cbk_app"
    verbose_name = "Cloud Backup Kit"
    default_auto_field = "django.db.models.BigAutoField"
