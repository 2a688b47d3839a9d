"""The download edge: what untrusted signed links point at, fetched once, as a stream of bytes.

`wire` holds the connections and everything that the network can do to them, `fetch` the conduct of one download over them. What an
answer means is decided in `cbk.rules.answers`, where a link may lead in `cbk.rules.links`.
"""

from cbk.edges.download.fetch import Downloader, Sink

__all__ = ["Downloader", "Sink"]
