"""Real remotes on loopback, and rclone's configuration of them: S3, SFTP, folders, and crypt over each."""

import subprocess
import sysconfig
from pathlib import Path

RCLONE = Path(sysconfig.get_path("scripts")) / "rclone"
PASSWORD, SALT = "correct horse battery staple", "seasoned with salt"


def rclone(*arguments, config=None, check=True):
    """What a person would type, and what it printed."""
    command = [RCLONE, *(("--config", config) if config else ()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout if check else done


def obscured(word):
    return rclone("obscure", word).strip()


def write_config(path, **remotes):
    """An rclone.conf with these sections, each a dict of its options."""
    lines = []
    for name, options in remotes.items():
        lines += [f"[{name}]", *(f"{option} = {value}" for option, value in options.items()), ""]
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return path


def crypt_over(remote):
    return {"type": "crypt", "remote": remote, "password": obscured(PASSWORD), "password2": obscured(SALT)}


def s3_remote(server):
    return {
        "type": "s3",
        "provider": "Other",
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "force_path_style": "true",
    }


def sftp_remote(sshd):
    return {
        "type": "sftp",
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.user,
        "key_file": sshd.key,
        "known_hosts_file": sshd.known_hosts,
        "shell_type": "unix",
    }
