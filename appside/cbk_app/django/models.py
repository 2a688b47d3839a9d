"""The two tables as models, to look at; rows are written by the storage. `cbk_app.schema` makes the tables, in the migration."""

from __future__ import annotations

from django.db import models


class ObjectStorageFile(models.Model):
    """A row for one upload."""

    id = models.BigAutoField(primary_key=True, db_column="Id")
    name = models.TextField(db_column="Name")
    path = models.TextField(db_column="Path")
    storage = models.TextField(db_column="Storage")
    version = models.IntegerField(db_column="Version")
    hash = models.CharField(max_length=71, null=True, db_column="Hash")
    link = models.TextField(db_column="SignedDownloadUrl")
    content_type = models.CharField(max_length=255, null=True, db_column="ContentType")
    created_at = models.DateTimeField(db_column="CreatedAt")

    class Meta:
        managed = False
        db_table = "ObjectStorageFiles"

    def __str__(self) -> str:
        return f"{self.storage}/{self.path}{self.name} v{self.version}"


class ObjectStorageDelete(models.Model):
    """A row for one delete: it names the newest row of the file that was deleted."""

    id = models.BigAutoField(primary_key=True, db_column="Id")
    file_id = models.BigIntegerField(db_column="FileId")
    deleted_at = models.DateTimeField(db_column="DeletedAt")

    class Meta:
        managed = False
        db_table = "ObjectStorageDeleteLog"

    def __str__(self) -> str:
        return f"delete of row {self.file_id}"
