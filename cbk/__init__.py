"""Cloud Backup Kit: a verified second copy of object storage on machines that you own."""
