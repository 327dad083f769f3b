from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from .. import conf, services, tasks
from ..exceptions import ClientRequired, IntegrationsError, StravaNotLinked
from ..web import (
    AthleteRequest,
    asking_first,
    at_most,
    athlete_view,
    done,
    failed,
    not_needed,
    require_valid,
    send_typed_ahead,
    wants_json,
)
from .forms import AuthorizationResponseForm, StravaClientForm


@athlete_view
@require_POST
@sensitive_post_parameters()
@at_most(60)
def connect(request: AthleteRequest) -> HttpResponse:
    """Send the athlete to Strava's consent page (RFC 6749, section 4.1.1)."""
    form = StravaClientForm(request.POST)
    try:
        require_valid(form)
        authorization = services.begin_strava_authorization(
            request.user.pk,
            conf.public_url(reverse("integrations:strava_callback"), request),
            form.cleaned_data["client_id"],
            form.cleaned_data["client_secret"],
        )
    except ClientRequired as exc:
        missing = "client_secret" if form.cleaned_data.get("client_id") else "client_id"
        return failed(request, exc, form, missing)
    except IntegrationsError as exc:
        return failed(request, exc, form)
    if wants_json(request):
        return JsonResponse(
            {
                "authorization_url": authorization.authorization_url,
                "state": authorization.state,
                "expires_in": authorization.expires_in,
            }
        )
    response = HttpResponseRedirect(authorization.authorization_url)
    send_typed_ahead(request, response, form)
    return response


@athlete_view
@require_GET
def callback(request: AthleteRequest) -> HttpResponse:
    """Redirection endpoint of the code grant (RFC 6749, section 3.1.2)."""
    form = AuthorizationResponseForm(request.GET)
    # From here on, no crash page, error mail or access log can show the request's code.
    request.GET, request.META["QUERY_STRING"] = QueryDict(), ""
    try:
        authorization = services.complete_strava_authorization(request.user.pk, **form.response())
    except IntegrationsError as exc:
        return failed(request, exc)
    if not authorization.repeated:
        tasks.start_wanted_gear_sync(request.user.pk, "strava")
    # The card shows which scopes are missing for as long as they are.
    return done(request, _("Strava is connected."))


@athlete_view
@asking_first("strava")
@at_most(30)
def disconnect(request: AthleteRequest) -> HttpResponse:
    """Revoke at Strava and forget everything here."""
    try:
        revoked = services.disconnect_strava(request.user.pk)
    except StravaNotLinked as exc:
        return not_needed(request, exc)
    except IntegrationsError as exc:
        return failed(request, exc)
    if revoked:
        return done(request, _("Strava is disconnected."))
    return done(
        request,
        _(
            "Strava is disconnected here and everything stored is deleted, but Strava could not "
            "be told. To end the access there as well, open strava.com/settings/apps and press "
            "“Revoke access”."
        ),
        level=messages.WARNING,
    )
