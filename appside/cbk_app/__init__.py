"""The application's side of Cloud Backup Kit: what writes the rows from which the kit makes its copies.

Installed by the application, without anything that runs on the backup machine. What is where:

- `contract`: the two tables, keys, hashes and links, in plain values; `schema`: the same as SQL for each database
- `recorder`: a row for each upload and each delete, in the application's own transaction
- `links`: permanent addresses that answer with a fresh signed link, as WSGI and ASGI application
- `importing`, `inventory`: what is in the bucket already, and what of it has no row; the command `cbk-app`
- `events`: rows from the storage's own notifications
- `django`: an app that does all of this for a Django project
"""
