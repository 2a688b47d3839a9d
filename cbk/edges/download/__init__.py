"""The download edge: what untrusted signed links point at, fetched once, as a stream of bytes.

`http_connections` holds the connections and everything that the network can do to them, `fetch` the conduct of one download over
them. What an answer means is decided in `cbk.rules.backup.http_responses`, where a link may lead in `cbk.rules.backup.links`.
"""

from cbk.edges.download.fetch import Downloader, Sink

__all__ = ["Downloader", "Sink"]
