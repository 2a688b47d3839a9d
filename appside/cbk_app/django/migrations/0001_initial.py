"""The two tables, as `cbk-app schema` prints them; tables that are there already stay as they are."""

from typing import Any

from django.db import migrations, models

from cbk_app.contract import DELETE_LOG, FILES
from cbk_app.schema import ddl


def make_tables(_apps: Any, editor: Any) -> None:
    """Make both tables, unless they are there."""
    there = {FILES, DELETE_LOG} & set(editor.connection.introspection.table_names())
    if there == {FILES, DELETE_LOG}:
        return
    for statement in ddl(editor.connection.vendor).split(";"):
        if statement.strip():
            editor.execute(statement)


class Migration(migrations.Migration):
    """Going back leaves the tables: they say what is to be backed up."""

    initial = True
    dependencies = ()
    operations = (
        migrations.RunPython(make_tables, migrations.RunPython.noop),
        migrations.CreateModel(
            name="ObjectStorageFile",
            fields=[
                ("id", models.BigAutoField(db_column="Id", primary_key=True, serialize=False)),
                ("name", models.TextField(db_column="Name")),
                ("path", models.TextField(db_column="Path")),
                ("storage", models.TextField(db_column="Storage")),
                ("version", models.IntegerField(db_column="Version")),
                ("hash", models.CharField(db_column="Hash", max_length=71, null=True)),
                ("link", models.TextField(db_column="SignedDownloadUrl")),
                ("content_type", models.CharField(db_column="ContentType", max_length=255, null=True)),
                ("created_at", models.DateTimeField(db_column="CreatedAt")),
            ],
            options={"db_table": "ObjectStorageFiles", "managed": False},
        ),
        migrations.CreateModel(
            name="ObjectStorageDelete",
            fields=[
                ("id", models.BigAutoField(db_column="Id", primary_key=True, serialize=False)),
                ("file_id", models.BigIntegerField(db_column="FileId")),
                ("deleted_at", models.DateTimeField(db_column="DeletedAt")),
            ],
            options={"db_table": "ObjectStorageDeleteLog", "managed": False},
        ),
    )
