"""The agent's one HTTP port: /healthz, /progress, /metrics, and on worker 0 the rendezvous.

Below: aiohttp, `board`, `metrics`, `membership`. Above: `supervision` keeps it open while it lives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.agent.membership import RENDEZVOUS_PATH, SUPERSEDED_STATUS, LeaderSeat
from llmtrain_trainer.agent.metrics import BoardCollector, render_metrics
from llmtrain_trainer.agent.rendezvous import MemberReport, SupersededError
from llmtrain_trainer.failures import ConfigurationError

SHUTDOWN_SECONDS = 0.2
"""How long open requests may take to end once the agent leaves."""


def build_application(
    board: Board, collector: BoardCollector, seat: LeaderSeat | None
) -> web.Application:
    """Return the application; `seat` only on the agent of worker 0."""

    async def answer_health(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def answer_progress(request: web.Request) -> web.Response:
        return web.json_response(board.read().dump())

    async def answer_metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=render_metrics(collector), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def answer_member(request: web.Request) -> web.Response:
        assert seat is not None
        try:
            report = MemberReport.read_lenient(await request.json())
            view = await seat.exchange(report)
        except SupersededError as error:
            return web.Response(status=SUPERSEDED_STATUS, text=str(error))
        except (ValidationError, ValueError) as error:
            return web.Response(status=400, text=str(error))
        return web.json_response(view.dump())

    application = web.Application()
    application.router.add_get("/healthz", answer_health)
    application.router.add_get("/progress", answer_progress)
    application.router.add_get("/metrics", answer_metrics)
    if seat is not None:
        application.router.add_post(RENDEZVOUS_PATH, answer_member)
    return application


@asynccontextmanager
async def serve(application: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Answer at `host`:`port` during the block.

    Raises:
        ConfigurationError: where the port is taken.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"the agent cannot listen on {host}:{port}: {error.strerror or error}",
                reason="PortTaken",
                next_step=f"stop what else listens on port {port}",
            ) from error
        yield
    finally:
        await runner.cleanup()
