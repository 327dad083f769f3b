from __future__ import annotations

from django.http import HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from .. import conf, providers, services, tasks
from ..exceptions import ClientRequired, IntegrationsError
from ..web import (
    AthleteRequest,
    at_most,
    athlete_view,
    done,
    failed,
    require_valid,
    send_typed_ahead,
    wants_json,
)
from .forms import AuthorizationResponseForm, ClientForm


@athlete_view
@require_POST
@sensitive_post_parameters()
@at_most(60)
def connect(request: AthleteRequest, provider: str) -> HttpResponse:
    """Send the athlete to the provider's consent page (RFC 6749, section 4.1.1)."""
    form = ClientForm(request.POST)
    try:
        require_valid(form)
        authorization = services.begin_authorization(
            request.user.pk,
            provider,
            conf.public_url(reverse(f"integrations:{provider}_callback"), request),
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
def callback(request: AthleteRequest, provider: str) -> HttpResponse:
    """Redirection endpoint of the code grant (RFC 6749, section 3.1.2)."""
    form = AuthorizationResponseForm(request.GET)
    # From here on, no crash page, error mail or access log can show the request's code.
    request.GET, request.META["QUERY_STRING"] = QueryDict(), ""
    try:
        authorization = services.complete_authorization(
            request.user.pk, provider, **form.response()
        )
    except IntegrationsError as exc:
        return failed(request, exc)
    found = providers.get(provider)
    if found.has_gear and not authorization.repeated:
        tasks.start_wanted_gear_sync(request.user.pk, provider)
    # The card shows which scopes are missing for as long as they are.
    return done(request, _("%(name)s is connected.") % {"name": found.label})
