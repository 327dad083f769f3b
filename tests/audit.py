"""`make audit`: what is installed, held against the advisories that its package index knows.

By pip-audit, which asks for each release by itself. An index that has a page for the newest
release of each project only, as mirrors do, is asked for that one, and knows nothing of others:
they are named. Once they are more than a few, the audit says too little and fails: it is time to
update the pins.
"""

from __future__ import annotations

import sys
from typing import Any

import requests
from pip_audit._audit import Auditor
from pip_audit._dependency_source import PipSource
from pip_audit._service import PyPIService
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

# Advisory → why it is none here. Look at each again now and then.
ACCEPTED: dict[str, str] = {}
# The part of the packages that may go without an audit.
UNAUDITED = 0.2


def main() -> int:
    findings, unaudited, count = [], [], 0
    service = PyPIService()
    service.session = _session()
    for dependency, vulnerabilities in Auditor(service).audit(PipSource(local=True)):
        count += 1
        if dependency.is_skipped():
            unaudited.append(dependency.name)
        for each in vulnerabilities:
            if not {each.id, *each.aliases} & ACCEPTED.keys():
                fixed = ", ".join(map(str, each.fix_versions)) or "nothing yet"
                findings.append(f"{dependency.name}: {each.id}, fixed by {fixed}")
    for finding in findings:
        print(finding)
    if unaudited:
        print(f"Not audited: {', '.join(unaudited)}")
    print(f"{count} packages, {len(findings)} findings, {len(unaudited)} not audited.")
    return 1 if findings or len(unaudited) >= max(1, count) * UNAUDITED else 0


def _session() -> requests.Session:
    session = requests.Session()
    retries = HTTPAdapter(max_retries=Retry(4, backoff_factor=1, status_forcelist=[502, 503, 504]))
    session.mount("https://", retries)
    session.hooks["response"].append(_or_newest)
    return session


def _or_newest(response: requests.Response, **sent: Any) -> requests.Response:
    """In place of a release without a page: its project's page, if it is the newest release."""
    base, project, version, _ = response.url.rsplit("/", 3)
    if response.status_code != 404 or not base.endswith("/pypi"):
        return response
    newest = requests.get(f"{base}/{project}/json", **sent)
    if newest.ok and newest.json()["info"]["version"] == version:
        return newest
    return response


if __name__ == "__main__":
    sys.exit(main())
