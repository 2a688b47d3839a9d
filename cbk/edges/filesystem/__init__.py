"""Folders and files of this machine that are not the backup disk."""
