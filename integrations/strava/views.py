from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from .. import services
from ..exceptions import IntegrationsError, InvalidInput
from ..views import AthleteRequest, at_most, athlete_view, done, failed, wants_json
from . import scopes
from .forms import AuthorizationResponseForm, StravaClientForm


@athlete_view
@require_POST
@sensitive_post_parameters()
@at_most(60)
def connect(request: AthleteRequest) -> HttpResponse:
    """Send the athlete to Strava's consent page (RFC 6749, section 4.1.1)."""
    form = StravaClientForm(request.POST)
    try:
        if not form.is_valid():
            raise InvalidInput(
                _("The Client ID or the Client Secret is malformed. Copy both from Strava.")
            )
        authorization = services.begin_strava_authorization(
            request.user.pk,
            request.build_absolute_uri(reverse("integrations:strava_callback")),
            form.cleaned_data["client_id"],
            form.cleaned_data["client_secret"],
        )
    except IntegrationsError as exc:
        return failed(request, exc)
    if wants_json(request):
        return JsonResponse(
            {
                "authorization_url": authorization.authorization_url,
                "state": authorization.state,
                "expires_in": authorization.expires_in,
            }
        )
    return HttpResponseRedirect(authorization.authorization_url)


@athlete_view
@require_GET
def callback(request: AthleteRequest) -> HttpResponse:
    """Redirection endpoint of the code grant (RFC 6749, section 3.1.2)."""
    form = AuthorizationResponseForm(request.GET)
    # From here on no crash page, error mail or access log finds the code in the request.
    request.GET, request.META["QUERY_STRING"] = QueryDict(), ""
    try:
        authorization = services.complete_strava_authorization(request.user.pk, **form.response())
    except IntegrationsError as exc:
        return failed(request, exc)
    if not authorization.missing:
        return done(request, _("Strava is connected."))
    return done(
        request,
        ngettext(
            "Strava is connected, but without one permission: %(costs)s. "
            "To add it, connect again and leave it ticked.",
            "Strava is connected, but without some permissions: %(costs)s. "
            "To add them, connect again and leave them ticked.",
            len(authorization.missing),
        )
        % {"costs": "; ".join(scopes.cost(scope) for scope in authorization.missing)},
        level=messages.WARNING,
    )


@athlete_view
@require_POST
@at_most(30)
def disconnect(request: AthleteRequest) -> HttpResponse:
    """Revoke at Strava and forget everything here."""
    try:
        revoked = services.disconnect_strava(request.user.pk)
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
