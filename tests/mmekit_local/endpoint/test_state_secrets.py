"""What `mme up --state` writes of requests that carry secrets: in its folder and in its log."""

import httpx

CUSTOMER_KEY = "x-amz-server-side-encryption-customer-key"
HEADERS = {
    **dict.fromkeys(("Proxy-Authorization", "Cookie", "x-api-key", "X-Auth-Token"), "hush-1"),
    **dict.fromkeys(("X-Amz-Security-Token", "proxy_authorization", "Authorisation"), "hush-2"),
    CUSTOMER_KEY: "hush-3",
}


def test_no_secret_is_written(start, tmp_path):
    service = start()
    s3, iam = service.client("s3"), service.client("iam")
    s3.create_bucket(Bucket="kept")
    sent = [*presigned(service), *signed(service)]
    form = service.client("s3", signature_version="s3v4").generate_presigned_post("kept", "form")
    form["fields"]["x-amz-security-token"] = "hush-7"
    sent.append(httpx.post(form["url"], data=form["fields"], files={"file": b"content"}))
    iam.create_user(UserName="someone")
    key = iam.create_access_key(UserName="someone")["AccessKey"]
    iam.create_login_profile(UserName="someone", Password="hush-8")
    for number, members in enumerate(login_profiles(service)):
        iam.create_user(UserName=f"user-{number}")
        sent.append(httpx.request(**members))
    assert {answer.status_code for answer in sent} == {200, 204}
    iam.delete_access_key(UserName="someone", AccessKeyId=key["AccessKeyId"])
    iam.update_account_password_policy(MinimumPasswordLength=17)
    service.stop()

    state = tmp_path / "state"
    secrets = ("hush", "ignature=", key["SecretAccessKey"], form["fields"]["x-amz-signature"])
    for path in (state / "log", *(state / "bodies").iterdir(), service.log_path):
        content = path.read_text()
        assert [secret for secret in secrets if secret in content] == [], path
    assert "Credential=local/" in (state / "log").read_text()
    assert state.stat().st_mode & 0o077 == 0
    service = start()
    found = service.client("s3").list_objects_v2(Bucket="kept")["Contents"]
    assert len(found) == 7
    assert {one["Size"] for one in found} == {len(b"content")}
    policy = service.client("iam").get_account_password_policy()["PasswordPolicy"]
    assert policy["MinimumPasswordLength"] == 17
    assert "could not be restored" not in service.log


def presigned(service):
    """Put objects by presigned URLs, in all their spellings."""
    for version in ("s3v4", "s3"):
        s3 = service.client("s3", signature_version=version)
        address = {"Bucket": "kept", "Key": f"presigned-{version}"}
        url = s3.generate_presigned_url("put_object", Params=address)
        lower = url.replace("X-Amz-", "x-amz-").replace("presigned", "lower")
        escaped = url.replace("Signature=", "%53ignature=").replace("presigned", "escaped")
        for one in (url, escaped, *([lower] if version == "s3v4" else [])):
            kind = {"Content-Type": "application/octet-stream"} if version == "s3v4" else {}
            yield httpx.put(one, content=b"content", headers=kind)


def signed(service):
    """Put an object with secrets in headers and in its query."""
    headers = HEADERS | {"Authorization": authorization("s3", "hush-4")}
    query = f"{CUSTOMER_KEY}=hush-5&X-Amz-security-token=hush-6&Signature=hush"
    yield httpx.put(f"{service.url}/kept/signed?{query}", headers=headers, content=b"content")


def authorization(service, signature="none"):
    scope = f"local/20260101/us-east-1/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={signature}"


def login_profiles(service):
    """Requests that give a password, in whatever way moto understands."""
    for number in range(4):
        members = {"Action": "CreateLoginProfile", "Version": "2010-05-08"}
        members |= {"UserName": f"user-{number}", "Password": "hush-9"}
        given = (
            {"method": "GET", "params": members},
            {"method": "POST", "params": members},
            {"method": "POST", "data": members},
            {"method": "POST", "files": {name: (None, value) for name, value in members.items()}},
        )[number]
        yield {"url": service.url, "headers": {"Authorization": authorization("iam")}, **given}


def test_what_fails_says_no_secret_in_the_log(start):
    service = start()
    query = "x-amz-signature=hush-1&X%2DAmz%2DSecurity%2DToken=hush-2&Password=hush-3"
    headers = {"Authorization": authorization("s3", "hush-4"), "Proxy-Authorization": "hush-5"}
    # moto's own failures, whose traceback and message tell the request
    for path in (
        "/kept/password=hush-6?analytics&id=1",
        "/kept?analytics&id=1",
        "/?Action=x",
        "/a/b?torrent",
        "/2015-03-31/functions/",
    ):
        for method in ("PUT", "POST", "GET", "PATCH"):
            mark = "&" if "?" in path else "?"
            httpx.request(method, f"{service.url}{path}{mark}{query}", headers=headers)
    service.stop()
    assert "Traceback" in service.log
    assert "***" in service.log
    assert "hush" not in service.log


def test_a_request_that_names_two_operations_is_refused(start):
    service = start()
    answer = httpx.post(
        f"{service.url}/?Action=CreateUser&UserName=a",
        data={"Action": "CreateLoginProfile", "UserName": "a", "Password": "x"},
        headers={"Authorization": authorization("iam")},
    )
    assert answer.status_code == 400
    assert "names several operations: CreateUser and CreateLoginProfile" in answer.text
    assert service.client("iam").list_users()["Users"] == []
