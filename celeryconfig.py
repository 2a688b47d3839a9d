"""The operator's Celery configuration: the kit's own, and below it whatever this site wants otherwise.

Read from the working folder of `celery -A cbk`, from `--workdir`, or from where CBK_CELERY_CONFIG says; without this file the kit's
own configuration holds. Which settings the kit's promises rest on is written in cbk/cluster/config.py, beside each of them.
"""

# ruff: noqa: ERA001 - the lines at the end are there to be uncommented

from cbk.cluster.config import kit_config

globals().update(kit_config())

# A line after this one overrides the kit. What sites change:
#
# worker_concurrency = 4                            # threads, not downloads: those are CBK_CONCURRENCY, and threads follow from it.
#                                                   # Fewer threads than downloads mean fewer downloads; `-c` is the same
# worker_pool = "prefork"                           # on the machine that only prunes and verifies: work that hangs can be killed
# broker_transport_options["socket_timeout"] = 60   # seconds; for a broker far away
