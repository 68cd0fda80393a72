"""The health service of gRPC: each service is serving while everything that it needs is there."""

from collections.abc import Collection, Mapping

from grpc_health.v1 import health, health_pb2

_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Sets the status of services. That of the server itself, the empty name, is SERVING until it drains.

    All servers share the stores: were each of them taken out of service while a store is away, callers would get no
    answer instead of UNAVAILABLE.
    """

    def __init__(self, needs: Mapping[str, Collection[str]]) -> None:
        """`needs`: by the full name of each service, the names under which `tell` reports what it needs."""
        self.servicer = health.aio.HealthServicer()
        self._needs = needs
        self._serving: dict[str, bool] = {}

    async def tell(self, up: Mapping[str, bool]) -> None:
        """Take what is there and what is not, by name. Who watches a service hears of a change at once."""
        for service, needed in self._needs.items():
            serving = all(up[name] for name in needed)
            if serving != self._serving.get(service):
                self._serving[service] = serving
                await self.servicer.set(service, _SERVING if serving else _NOT_SERVING)

    async def drain(self) -> None:
        """Set all to NOT_SERVING, for good."""
        await self.servicer.enter_graceful_shutdown()
