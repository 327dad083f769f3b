"""The calls of connectapi.garmin.com that a sign-in and a gear sync make.

Shapes as they are seen in the wild: Garmin documents none of them. Distances
are meters. The two generations of gear endpoints use different names for everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse

from ..provider import Refusal
from . import errors
from .demo import Account, Gear
from .state import GarminState


def _owner(garmin: GarminState, request: HttpRequest, tld: str) -> Account:
    """Whose token or cookie this is."""
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed()
    method, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    bearer = value.strip() if method.lower() == "bearer" else ""
    account = garmin.find_bearer(bearer or request.COOKIES.get("JWT_WEB", ""), f"garmin.{tld}")
    if account is None or account.inactive:
        raise errors.token_not_active()
    if account.throttled:
        raise Refusal(errors.front(429))
    return account


def _own(view: Callable[..., object]) -> Callable[..., HttpResponse]:
    def answer(garmin: GarminState, request: HttpRequest, tld: str, **path: str) -> HttpResponse:
        return JsonResponse(view(_owner(garmin, request, tld), request, **path), safe=False)

    return answer


@_own
def profile(account: Account, request: HttpRequest) -> object:
    return {
        "id": 900_000_000 + account.profile_id,
        "profileId": account.profile_id,
        "garminGUID": account.guid,
        "displayName": account.display_name,
        "fullName": account.full_name,
        "userName": account.email,
        "profileImageUrlLarge": None,
        "profileImageUrlMedium": None,
        "profileImageUrlSmall": None,
        "location": "Sandbox",
        "profileVisibility": "private",
        "userRoles": ["SCOPE_CONNECT_READ", "SCOPE_CONNECT_WRITE", "ROLE_CONNECTUSER"],
        "userProfileFullName": account.full_name,
        "userLevel": 3,
        "userPro": False,
    }


@_own
def settings(account: Account, request: HttpRequest) -> object:
    return {
        "id": account.profile_id,
        "userData": {
            "gender": None,
            "weight": None,
            "height": None,
            "timeFormat": "time_twenty_four_hr",
            "birthDate": None,
            "measurementSystem": account.measurement_system,
        },
        "userSleep": {"sleepTime": 79200, "wakeTime": 21600},
        "connectDate": None,
        "sourceType": None,
    }


@_own
def device(account: Account, request: HttpRequest) -> object:
    """The device that was used last, which many clients read for the profile's number."""
    return {
        "userDeviceId": 3_999_000_000 + account.profile_id,
        "userProfileNumber": account.profile_id,
        "applicationNumber": 3113,
        "lastUsedDeviceApplicationKey": "sandbox",
        "lastUsedDeviceName": "Sandbox Watch",
        "lastUsedDeviceUploadTime": 1_772_366_400_000,
        "imageUrl": None,
        "released": True,
    }


def _day(day: str | None) -> str | None:
    return f"{day}T00:00:00.0" if day else None


def _legacy_uuid(gear: Gear) -> str:
    return gear.uuid.replace("-", "")


def _make_and_model(gear: Gear) -> tuple[str, str]:
    """The older endpoint's make and model, with words of its own for unlisted gear.

    Source: https://github.com/petergardfjall/garminexport/pull/99 ("Unknown Bike"),
    https://github.com/cyberjunky/home-assistant-garmin_connect/issues/286 ("Other" of "Other")
    """
    unknown = "Other" if gear.type == "Other" else f"Unknown {gear.type}"
    make, model = (gear.make, gear.model) if gear.listed else (None, None)
    return make or "Other", model or unknown


@_own
def gear(account: Account, request: HttpRequest) -> object:
    """All gear by the profile's number, in the older shape."""
    if "activityId" in request.GET:
        return []
    number = request.GET.get("userProfilePk", "")
    if not number.isascii() or not number.isdigit():
        raise errors.api(400, "Bad Request", "BadRequestException")
    if number != str(account.profile_id):
        raise errors.api(403, "Forbidden", "ForbiddenException")
    return [
        {
            "gearPk": each.pk,
            "uuid": _legacy_uuid(each),
            "userProfilePk": account.profile_id,
            "gearMakeName": _make_and_model(each)[0],
            "gearModelName": _make_and_model(each)[1],
            "gearTypeName": each.type,
            "gearStatusName": "retired" if each.retired_on else "active",
            "displayName": each.name,
            "customMakeModel": " ".join(filter(None, (each.make, each.model))),
            "imageNameLarge": None,
            "imageNameMedium": None,
            "imageNameSmall": None,
            "dateBegin": _day(each.first_use),
            "dateEnd": _day(each.retired_on),
            "maximumMeters": each.maximum,
            "notified": False,
            "createDate": _day(each.first_use),
            "updateDate": _day(each.first_use),
        }
        for each in account.gear
    ]


@_own
def gear_stats(account: Account, request: HttpRequest, uuid: str) -> object:
    """Distance of one piece of gear. This endpoint knows no dashes in a uuid."""
    for each in account.gear:
        if _legacy_uuid(each) == uuid and not each.removed:
            return {
                "gearPk": each.pk,
                "uuid": uuid,
                "createDate": 1_709_251_200_000,
                "updateDate": 1_772_366_400_000,
                "totalDistance": each.distance,
                "totalActivities": each.activities,
                "processing": False,
            }
    raise errors.api(404, "Gear not found", "NotFoundException")


def _v2(account: Account, each: Gear) -> dict[str, Any]:
    """Gear-service v2 omits fields that have no value."""
    shown = {
        "uuid": each.uuid,
        "userProfilePk": account.profile_id,
        "gearType": each.type.upper(),
        "status": "RETIRED" if each.retired_on else "ACTIVE",
        "name": each.name,
        "brand": each.make,
        "model": each.model,
        "usageType": "DISTANCE",
        "maxUsageDistanceMeters": each.maximum or None,
        "maxUsageDurationSeconds": 0,
        "firstUseDate": each.first_use,
        "numActivitiesLinked": each.activities,
        "durationUsedSeconds": int(each.distance / 7),
        "distanceUsedMeters": each.distance,
        "daysUsed": each.activities,
        "processing": False,
        "createdDate": _day(each.first_use),
    }
    return {name: value for name, value in shown.items() if value is not None}


@_own
def gear_list(account: Account, request: HttpRequest) -> object:
    """A page of gear in the newer shape; without `gearStatuses`, of every status."""
    try:
        start, limit = int(request.GET.get("start", 0)), int(request.GET.get("limit", 20))
    except ValueError:
        raise errors.api(400, "Bad Request", "BadRequestException") from None
    if start < 0 or limit < 1:
        raise errors.api(400, "Bad Request", "BadRequestException")
    statuses, gear_type = request.GET.getlist("gearStatuses"), request.GET.get("gearType")
    found = [
        shown
        for shown in (_v2(account, each) for each in account.gear)
        if (not statuses or shown["status"] in statuses)
        and (not gear_type or shown["gearType"] == gear_type)
    ]
    return found[start : start + limit]


@_own
def gear_details(account: Account, request: HttpRequest, uuid: str) -> object:
    for each in account.gear:
        if each.uuid == uuid and not each.removed:
            return _v2(account, each) | {"notes": "", "associatedActivityTypes": []}
    raise errors.api(404, "Gear not found", "NotFoundException")
