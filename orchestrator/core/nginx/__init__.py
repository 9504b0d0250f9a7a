"""A web server's configuration before the cluster: what it is to do, and the text nginx reads. Pure."""

from orchestrator.core.nginx.site import Limits, Site, without_gateway
from orchestrator.core.nginx.text import MARK, render

__all__ = ["MARK", "Limits", "Site", "render", "without_gateway"]
