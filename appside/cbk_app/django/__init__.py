"""A Django app: what a project saves and deletes through its storages becomes rows, in the same transaction.

    INSTALLED_APPS = [..., "cbk_app.django"]
    STORAGES = {
        "default": {
            "BACKEND": "cbk_app.django.storage.BackedUpStorage",
            "OPTIONS": {"storage": "media", "links_url": "https://app.example.com/cbk-links"},
        },
        ...
    }
    urlpatterns = [..., path("cbk-links/", include("cbk_app.django.urls"))]

`manage.py migrate` makes the two tables.
"""
