"""A Valkey that answers, and refuses: its disk is full, it became a replica, a right was taken away."""

import redis

from local_servers import Valkey, wait_until


class RefusingValkey(Valkey):
    """A Valkey that a test can make refuse, and willing again."""

    def command(self):
        return [*super().command(), "--enable-protected-configs", "yes"]

    @property
    def client(self):
        return redis.Redis.from_url(self.url)

    def save_to(self, folder):
        """Save at once to a folder, whether that is there or not."""
        with self.client as client:
            client.config_set("dir", str(folder))
            client.config_set("save", "3600 1")
            client.bgsave()

    def refuse_writes(self):
        """As when the disk it saves to is full."""
        gone = self.folder / "gone"
        gone.mkdir()
        with self.client as client:
            client.config_set("dir", str(gone))
            gone.rmdir()
            client.config_set("save", "3600 1")
            client.set("something", "to save")
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 30, "the save to fail")

    def take_writes(self):
        with self.client as client:
            client.config_set("stop-writes-on-bgsave-error", "no")

    def become_replica(self):
        self.client.execute_command("REPLICAOF", "127.0.0.1", "1")

    def become_primary(self):
        self.client.execute_command("REPLICAOF", "NO", "ONE")

    def deny_a_command(self):
        self.client.execute_command("ACL", "SETUSER", "default", "-brpop", "-lpush", "-rpush")

    def allow_all(self):
        self.client.execute_command("ACL", "SETUSER", "default", "+@all")
