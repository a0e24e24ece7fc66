"""The operator's site: finds the page that is asked for, lets in who may see it, and answers with it or with what went wrong.

A page that fails costs itself alone: whoever asked sees the correlation id of the request (of `Guard`), the log has the rest.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from postward.errors import PostwardError, StoreError
from postward.log import current_cid, fresh_cid
from postward.web import frame as drawing
from postward.web.access import COOKIE, LIFE, VISIT, Access, TooManyWrong, Visitor, fresh_secret, is_from_elsewhere
from postward.web.frame import Frame
from postward.web.origin import client_of_request, is_loopback_name, is_meant_for
from postward.web.page import _SAFE_PATH, Action, Ask, NotHere, Page, Tone, View
from postward.web.params import MAX_FORM, BadQuery, fields, read

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import Receive, Scope, Send
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.web.places import Place, Places

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_STATIC: Final = {"postward.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
_OPENAPI: Final = "/api/v1/openapi.json"
_TITLES: Final = {
    400: "That cannot be answered",
    401: "Log in first",
    403: "Not allowed",
    404: "There is no such page",
    405: "Not in this way",
    429: "Too many attempts",
    500: "This page failed",
    503: "Not just now",
}


class Refused(PostwardError):
    """An answer with a status other than 200."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(text)


class Site:
    """An ASGI application with all pages for the operator. `hosts` are its names besides those of this machine."""

    def __init__(
        self,
        places: Places,
        *,
        access: Access,
        clock: Clock,
        hostname: str,
        log: FilteringBoundLogger,
        hosts: Collection[str] = (),
    ) -> None:
        self._places, self._access, self._clock, self._log = places, access, clock, log
        self._hostname, self._hosts = hostname, frozenset(hosts)
        static = files("postward.web") / "static"
        self._static = {name: (static / name).read_bytes() for name in _STATIC}
        self._described: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._answered(request, current_cid() or fresh_cid())
        if request.method == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    async def refusal(self, scope: Scope) -> Response | None:
        """Why somebody does not get a page that another application draws; None when they do."""
        request = Request(scope)
        try:
            await self._let_in(request)
        except Refused as exc:
            return self._trouble(request, exc.status, str(exc), headers=exc.headers)
        return None

    async def _answered(self, request: Request, cid: str) -> Response:
        try:
            return await self._routed(request)
        except Refused as exc:
            if exc.status == 401 and not _is_api(request):
                return _to(f"/login?{_query(to=request.url.path)}")
            return self._trouble(request, exc.status, str(exc), headers=exc.headers)
        except BadQuery as exc:
            return self._trouble(request, 400, str(exc))
        except NotHere as exc:
            return self._trouble(request, 404, str(exc))
        except TooManyWrong:
            text = "There were too many wrong passwords from where you are; it takes some minutes until the next is looked at."
            return self._trouble(request, 429, text, headers={"retry-after": "600"})
        except StoreError as exc:
            self._log.warning("web-page-without-database", path=request.url.path[:200], error=str(exc))
            hint = "It may be locked by another program or be migrating just now. Mail goes on; come back in a moment."
            return self._trouble(request, 503, f"The database cannot be read: {exc}", hint=hint, headers={"retry-after": "5"})
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # noqa: BLE001 - a page may fail in any way, and only that page
            self._log.exception("web-page-failed", path=request.url.path[:200])
            return self._trouble(request, 500, "Something failed while this page was made. All other pages go on.", cid=cid)

    async def _routed(self, request: Request) -> Response:
        path = request.url.path
        if not is_meant_for(request.scope, self._hosts):
            raise Refused(403, "these pages are for this machine only, under its own names")
        if path.startswith("/static/"):
            return self._file(path.removeprefix("/static/"))
        if path == "/login":
            return await self._login(request)
        visitor = await self._let_in(request)
        if path == "/logout":
            return await self._logout(request, visitor)
        if path == _OPENAPI:
            return self._description(request)
        found = self._places.find(path)
        if found is None:
            raise Refused(404, "There is no such page; a plugin that is not enabled has none.")
        place, given, as_json = found
        if isinstance(place.what, Action):
            return await self._act(request, place, place.what, visitor)
        _only(request, "GET", "HEAD")
        return await self._show(request, place, place.what, given, visitor, as_json=as_json)

    # --- pages ---

    async def _show(
        self, request: Request, place: Place, view: View, in_path: Mapping[str, str], visitor: Visitor, *, as_json: bool
    ) -> Response:
        query = fields(request.scope["query_string"])
        if twice := set(query) & set(place.names):
            raise BadQuery(f"{min(twice)} stands in the path already")
        values = read(place.params, {**query, **in_path})
        if empty := [name for name in place.names if values[name] == ""]:
            raise NotHere(f"The {empty[0]} in the path is empty.")
        page = await view(Ask(values=values, user=visitor.user, may_change=self._access.may_change(visitor)))
        if not isinstance(page, Page):
            raise TypeError(f"a view should give a Page, and gave {type(page).__name__}")
        if as_json:
            return _json({"data": page.data, "next": page.next or None})
        twin = _filled(place.twin, in_path) + (f"?{request.url.query}" if request.url.query else "")
        frame = self._frame(request, visitor, once=True)
        return _html(drawing.page(frame, page, params=place.conditions, given=query, twin=twin))

    def _frame(self, request: Request, visitor: Visitor, *, once: bool = False) -> Frame:
        """What is around a page. `once`: what the last action came to is told here, and then no more."""
        session = visitor.session
        told, tone = (session.told, session.tone) if session is not None and once else ("", Tone.GOOD)
        if session is not None and once:
            session.told = ""
        return Frame(
            hostname=self._hostname,
            groups=self._places.groups if self._access.may_read(visitor) else (),
            path=request.url.path,
            user=visitor.user,
            may_change=self._access.may_change(visitor),
            token=self._access.token(visitor),
            told=told,
            told_tone=tone,
            open_to_all=self._access.users is None,
            now=self._clock.now(),
        )

    def _trouble(
        self, request: Request, status: int, text: str, *, cid: str = "", hint: str = "", headers: Mapping[str, str] = {}
    ) -> Response:
        if _is_api(request):
            said = {"error": text, "status": status} | ({"cid": cid} if cid else {})
            return _json(said, status=status, headers=headers)
        visitor = self._access.visitor(request.cookies) if is_meant_for(request.scope, self._hosts) else Visitor(secret="")
        title = _TITLES.get(status, HTTPStatus(status).phrase)
        frame = self._frame(request, visitor)
        return _html(
            drawing.trouble(frame, status=status, title=title, text=text, cid=cid, hint=hint), status=status, headers=headers
        )

    def _file(self, name: str) -> Response:
        content = self._static.get(name)
        if content is None:
            raise Refused(404, "there is no such file")
        return Response(content, media_type=_STATIC[name], headers={**HEADERS, "cache-control": "max-age=600"})

    def _description(self, request: Request) -> Response:
        _only(request, "GET", "HEAD")
        if self._described is None:
            from postward.web.openapi import describe

            self._described = msgspec.json.encode(describe(self._places.all))
        return Response(self._described, media_type="application/json", headers=HEADERS)

    # --- who asks ---

    async def _let_in(self, request: Request) -> Visitor:
        """Who may read. Raises `Refused`."""
        if not is_meant_for(request.scope, self._hosts):
            raise Refused(403, "these pages are for this machine only, under its own names")
        visitor = self._access.visitor(request.cookies)
        if self._access.may_read(visitor):
            return visitor
        if _is_api(request) and (given := _basic(request)) is not None:
            known = await self._access.basic(*given, client_of_request(request.scope, self._hosts))
            if known is not None:
                return known
        raise Refused(401, "log in first", www_authenticate='Basic realm="Postward", charset="UTF-8"')

    async def _login(self, request: Request) -> Response:
        _only(request, "GET", "HEAD", "POST")
        if self._access.users is None:
            return _to("/")
        visitor = self._access.visitor(request.cookies)
        if request.method != "POST":
            to = _own_path(fields(request.scope["query_string"]).get("to", "/"))
            return self._login_page(request, visitor, to=to)
        form = await self._form(request)
        user, to = form.get("user", "").strip(), _own_path(form.get("to", "/"))
        if is_from_elsewhere(request.headers) or not self._access.is_own(visitor, form.get("token", "")):
            return self._login_page(request, visitor, user=user, to=to, problem="This form was out of date; please try again.")
        client = client_of_request(request.scope, self._hosts)
        token = await self._access.log_in(user, form.get("password", ""), client)
        if token is None:
            self._log.warning("web-login-failed", user=user[:80], client=client)
            problem = "That is no name and password known here."
            return self._login_page(request, visitor, user=user, to=to, problem=problem)
        self._log.info("web-login", user=user, client=client)
        self._access.log_out(visitor)
        response = _to(to)
        self._set_cookie(request, response, COOKIE, token, seconds=int(LIFE))
        return response

    def _login_page(self, request: Request, visitor: Visitor, *, user: str = "", problem: str = "", to: str = "/") -> Response:
        fresh = "" if visitor.secret else fresh_secret()
        known = Visitor(secret=fresh) if fresh else visitor
        frame = self._frame(request, known)
        response = _html(drawing.login(frame, user=user[:320], problem=problem, to=to), status=403 if problem else 200)
        if fresh:
            self._set_cookie(request, response, VISIT, fresh)
        return response

    def _set_cookie(self, request: Request, response: Response, name: str, value: str, *, seconds: int | None = None) -> None:
        """Behind a proxy the browser speaks HTTPS, and is to keep to that; to this machine there is none."""
        secure = not is_loopback_name(request.headers.get("host", ""))
        response.set_cookie(name, value, max_age=seconds, httponly=True, secure=secure, samesite="lax")

    async def _logout(self, request: Request, visitor: Visitor) -> Response:
        await self._own_form(request, visitor)
        self._access.log_out(visitor)
        response = _to("/login")
        response.delete_cookie(COOKIE)
        return response

    # --- changes ---

    async def _act(self, request: Request, place: Place, action: Action, visitor: Visitor) -> Response:
        form = await self._own_form(request, visitor)
        if not self._access.may_change(visitor):
            raise Refused(403, f"{visitor.user} may read here, and not change anything.")
        ask, back = form.pop("ask", ""), _own_path(form.pop("back", "/"))
        if ask:
            frame = self._frame(request, visitor)
            page = drawing.question(frame, title="Are you sure?", action=place.path, fields=form, ask=ask, back=back)
            return _html(page)
        done = await action(Ask(values=read(place.params, form), user=visitor.user, may_change=True))
        self._log.info("web-action", user=visitor.user, path=place.path, fields=form, outcome=done.text)
        assert visitor.session is not None
        visitor.session.told, visitor.session.tone = done.text, done.tone
        return _to(_own_path(done.to))

    async def _own_form(self, request: Request, visitor: Visitor) -> dict[str, str]:
        """A form that came from a page of ours. Raises `Refused`."""
        _only(request, "POST")
        if self._access.users is None:
            raise Refused(403, "Nobody can change anything here: [web] users lets people log in.")
        form = await self._form(request)
        if is_from_elsewhere(request.headers) or not self._access.is_own(visitor, form.pop("token", "")):
            raise Refused(403, "This form did not come from a page of this site, or is out of date. Nothing was changed.")
        return form

    async def _form(self, request: Request) -> dict[str, str]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise BadQuery("only forms of these pages are taken")
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_FORM:
                raise BadQuery(f"a form may have {MAX_FORM:,} octets")
        return fields(bytes(body), most=MAX_FORM)


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise Refused(405, f"only {' and '.join(methods)} are for this page", allow=", ".join(methods))


def _html(text: str, *, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    content = text.encode("utf-8", "replace")
    return Response(content, status, {**HEADERS, **headers}, media_type="text/html; charset=utf-8")


def _json(data: Any, *, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    content = msgspec.json.encode(data, enc_hook=str)
    return Response(content, status, {**HEADERS, **headers}, media_type="application/json")


def _to(path: str) -> Response:
    return RedirectResponse(path, 303, headers=HEADERS)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _own_path(path: str) -> str:
    """A path of this site, whatever was given."""
    return path if _SAFE_PATH.fullmatch(path) and len(path) < 2000 else "/"


def _query(**values: str) -> str:
    from urllib.parse import urlencode

    return urlencode(values)


def _filled(path: str, values: Mapping[str, str]) -> str:
    from urllib.parse import quote

    for name, value in values.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    return path


def _basic(request: Request) -> tuple[str, str] | None:
    """The name and password of RFC 7617."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None
