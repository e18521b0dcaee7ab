"""`/v1/judges`."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import ValidationError

from service.db.queries import judges as queries
from service.db.queries import models as model_queries
from service.db.queries.jobs import now
from service.db.tables import Judge, JudgeRevision
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep, check_if_match
from service.domain.ids import new_id
from service.domain.judge import JudgeConfig, JudgeLimits, origin
from service.errors import Invalid, NotFound
from service.judges.ability import require_able
from service.judges.schemas import OF_REVISION, JudgeIn, JudgeOut, JudgePatch, RevisionOut, head_etag, refuse_limits
from service.operation import needs, router
from service.problems import validation_problem

judges = router("judges")

T = TypeVar("T", JudgeConfig, JudgeLimits)

_LIFTED_BY_NULL = {"rate_limit", "price", "max_cost_usd"}


async def _find(session: SessionDep, caller: CallerDep, judge_id: str) -> tuple[Judge, JudgeRevision]:
    statement = queries.heads(caller.project_id).where(Judge.id == judge_id)
    found = (await session.execute(statement.execution_options(populate_existing=True))).first()
    if found is None:
        raise NotFound(f"there is no judge '{judge_id}'")
    return found[0], found[1]


def _revision(judge: Judge, config: JudgeConfig) -> JudgeRevision:
    return JudgeRevision(
        judge_id=judge.id,
        revision=judge.revision,
        project_id=judge.project_id,
        config=config.model_dump(mode="json"),
        fingerprint=config.fingerprint,
    )


@judges.post("/v1/judges", status_code=201, openapi_extra=needs("judges:write"))
async def create_judge(
    body: JudgeIn, session: SessionDep, caller: CallerDep, services: ServicesDep, response: Response
) -> JudgeOut:
    """Create a judge, as its revision 1. The endpoint's key is stored sealed and never shown."""
    judge_id = new_id("judge")
    secret = body.endpoint.api_key if body.endpoint is not None else None
    if body.model is not None:
        await _require_model(session, caller, body.model)
    await require_able(session, caller.project_id, body.config(), body.limits())
    judge = Judge(
        id=judge_id,
        project_id=caller.project_id,
        name=body.name,
        revision=1,
        head_revision=1,
        limits=body.limits().model_dump(mode="json"),
        secret=services.vault.seal(secret.get_secret_value(), judge_id) if secret else None,
    )
    session.add(judge)
    await session.flush()
    session.add(_revision(judge, body.config()))
    await session.flush()
    row, revision = await _find(session, caller, judge_id)
    response.headers["ETag"] = head_etag(row)
    return JudgeOut.of(row, revision)


@judges.get("/v1/judges", openapi_extra=needs("judges:read"))
async def list_judges(session: SessionDep, caller: CallerDep, page: PageDep) -> Listing[JudgeOut]:
    """List judges, oldest first."""
    return await page.fetch(
        session, queries.heads(caller.project_id), [Judge.id], lambda row: JudgeOut.of(*row), lambda row: [row[0].id]
    )


@judges.get("/v1/judges/{judge_id}", openapi_extra=needs("judges:read"))
async def get_judge(judge_id: str, session: SessionDep, caller: CallerDep, response: Response) -> JudgeOut:
    """A judge as it is now."""
    row, revision = await _find(session, caller, judge_id)
    response.headers["ETag"] = head_etag(row)
    return JudgeOut.of(row, revision)


@judges.patch("/v1/judges/{judge_id}", openapi_extra=needs("judges:write"))
async def patch_judge(
    judge_id: str,
    body: JudgePatch,
    request: Request,
    session: SessionDep,
    caller: CallerDep,
    services: ServicesDep,
    response: Response,
) -> JudgeOut:
    """Change a judge. What decides verdicts makes a new revision; name, key and limits do not. `If-Match` is honoured."""
    judge = await session.scalar(queries.lock_head(caller.project_id, judge_id))
    if judge is None:
        raise NotFound(f"there is no judge '{judge_id}'")
    if "if-match" in request.headers:
        check_if_match(request, head_etag(judge))
    current = await session.scalar(queries.revision(judge.id, judge.revision))
    assert current is not None
    _refuse_nulls(body)
    if body.name is not None:
        judge.name = body.name
    limits = {name: getattr(body, name) for name in JudgeLimits.model_fields if name in body.model_fields_set}
    bounds = _checked(JudgeLimits, {**judge.limits, **limits})
    judge.limits = bounds.model_dump(mode="json")
    config: dict[str, Any] = dict(current.config)
    await _stays_where_it_is(session, caller, body, config)
    if body.endpoint is not None:
        if "api_key" in body.endpoint.model_fields_set:
            secret = body.endpoint.api_key
            judge.secret = services.vault.seal(secret.get_secret_value(), judge.id) if secret else None
        elif judge.secret is not None:
            _key_stays_where_it_belongs(body, config["endpoint"]["base_url"])
        place = body.endpoint.model_dump(include={"base_url", "model"}, exclude_none=True)
        config["endpoint"] = {**config["endpoint"], **place}
    if body.prompt is not None:
        config["prompt"] = {**config["prompt"], **body.prompt.model_dump(exclude_unset=True)}
    told = body.model_dump(mode="json", include=set(OF_REVISION) - {"prompt"})
    changes = {name: value for name, value in told.items() if value is not None}
    fresh = _checked(JudgeConfig, {**config, **changes})
    if changes or body.endpoint is not None or body.capabilities is not None:  # a new name is nobody's question
        await require_able(session, caller.project_id, fresh, bounds)
    judge.head_revision += 1
    if fresh != JudgeConfig.model_validate(current.config):
        judge.revision += 1
        session.add(_revision(judge, fresh))
    judge.updated_at = now()
    await session.flush()
    await session.refresh(judge)
    row, revision = await _find(session, caller, judge_id)
    response.headers["ETag"] = head_etag(row)
    return JudgeOut.of(row, revision)


def _key_stays_where_it_belongs(body: JudgePatch, before: str) -> None:
    """A stored key is never sent to another host: whoever may change judges could read it there."""
    assert body.endpoint is not None
    if body.endpoint.base_url is not None and origin(body.endpoint.base_url) != origin(before):
        message = f"the stored key belongs to {before}, and this is another address: give its own api_key, or null if it needs none"
        raise Invalid.at("/endpoint/api_key", "missing", message)


async def _stays_where_it_is(session: SessionDep, caller: CallerDep, body: JudgePatch, config: dict[str, Any]) -> None:
    """An endpoint stays one, and a registered model too; the model may be another."""
    local = config.get("model") is not None
    if (body.endpoint is not None and local) or (body.model is not None and not local):
        name, kind = ("endpoint", "a registered model") if local else ("model", "an endpoint")
        raise Invalid.at(f"/{name}", "invalid_option", f"this judge is {kind}, and stays one; create another judge")
    if local:
        try:
            refuse_limits(body)
        except ValidationError as error:
            raise validation_problem(error.errors(include_url=False), body.model_dump(mode="json")) from None
    if body.model is not None:
        await _require_model(session, caller, body.model)
        config["model"] = body.model


async def _require_model(session: SessionDep, caller: CallerDep, model_id: str) -> None:
    model = await session.scalar(model_queries.model(caller.project_id, model_id))
    if model is None:
        raise Invalid.at("/model", "not_found", f"there is no model '{model_id}'")
    if model.kind != "policy":
        message = f"model '{model_id}' is a {model.kind} model; a judge writes its verdicts, so it is a language model"
        raise Invalid.at("/model", "wrong_kind", message)
    if model.status == "failed":
        raise Invalid.at("/model", "model_invalid", f"model '{model_id}' failed to register: {model.error}")


def _checked(kind: type[T], values: dict[str, Any]) -> T:
    """The configuration or the limits, or 422 with the place in the body of what does not go together."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise validation_problem(list(error.errors()), values) from None


def _refuse_nulls(body: JudgePatch) -> None:
    for name in body.model_fields_set - _LIFTED_BY_NULL:
        if getattr(body, name) is None:
            raise Invalid.at(f"/{name}", "null", f"'{name}' cannot be null; leave it out to keep it")


@judges.get("/v1/judges/{judge_id}/revisions", openapi_extra=needs("judges:read"))
async def list_revisions(judge_id: str, session: SessionDep, caller: CallerDep, page: PageDep) -> Listing[RevisionOut]:
    """List a judge's revisions, first to last."""
    await _find(session, caller, judge_id)
    key = [JudgeRevision.revision]
    return await page.fetch(session, queries.revisions(judge_id), key, RevisionOut.of, lambda row: [row.revision])


@judges.get("/v1/judges/{judge_id}/revisions/{number}", openapi_extra=needs("judges:read"))
async def get_revision(judge_id: str, number: int, session: SessionDep, caller: CallerDep) -> RevisionOut:
    """One revision; it never changes."""
    await _find(session, caller, judge_id)
    row = await session.scalar(queries.revision(judge_id, number)) if 0 < number < 2**31 else None
    if row is None:
        raise NotFound(f"judge '{judge_id}' has no revision {number}")
    return RevisionOut.of(row)
