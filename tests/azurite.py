"""Azure Blob Storage on loopback: Azurite, Microsoft's emulator, where it is installed (`npm install --global azurite`)."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from azure.storage.blob import BlobSasPermissions, BlobServiceClient, generate_blob_sas

from local_servers import LOOPBACK, Server, _http_status

ACCOUNT = "devstoreaccount1"
# Azurite's own, which its documentation gives to everybody.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def require_azurite():
    """Skip the test where Azurite is not installed."""
    if shutil.which("azurite-blob") is None:
        pytest.skip("AZURITE IS NOT TESTED: npm install --global azurite")


class Azurite(Server):
    """One account, with shared keys and signed links, over plain http."""

    name = "azurite"

    @property
    def endpoint(self):
        return f"http://{LOOPBACK}:{self.port}/{ACCOUNT}"

    @property
    def connection_string(self):
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.endpoint};"

    def client(self):
        return BlobServiceClient.from_connection_string(self.connection_string)

    def link(self, container, name, **headers):
        """A signed link to a blob; `headers` are those that it makes the service say instead of the blob's own."""
        until = datetime.now(UTC) + timedelta(hours=1)
        signature = generate_blob_sas(
            ACCOUNT, container, name, account_key=KEY, permission=BlobSasPermissions(read=True), expiry=until, **headers
        )
        return f"{self.client().get_blob_client(container, name).url}?{signature}"

    def command(self):
        program = shutil.which("azurite-blob")
        where = ["--blobHost", LOOPBACK, "--blobPort", str(self.port), "--location", str(self.folder / "data")]
        return [shutil.which("node"), program, *where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]

    def is_ready(self):
        return _http_status(self.port, "/") != 0
