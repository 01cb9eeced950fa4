"""Makes uploads with requests, and with the http.client that it rests on. Reads lines
of client, URL, app and size, with tabs between them, and writes one line for each: the
status and the body of the answer, or the exception. The argument is the file of a
certificate to be trusted."""

import http.client
import ssl
import sys
import urllib.parse

import requests

HEAD = b'--b7f3a9c\r\nContent-Disposition: form-data; name="media"; filename="photo.jpg"\r\n\r\n'
TAIL = b"\r\n--b7f3a9c--\r\n"
PATIENCE = 40  # seconds

cert = sys.argv[1]
context = ssl.create_default_context(cafile=cert)


def by_requests(url, app, picture):
    answer = requests.post(
        url, files={"media": ("photo.jpg", picture)}, headers={"X-App": app}, verify=cert, timeout=PATIENCE
    )
    return answer.status_code, answer.text


def by_http_client(url, app, picture):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, context=context, timeout=PATIENCE)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    headers = {"Content-Type": "multipart/form-data; boundary=b7f3a9c", "X-App": app}
    target = parts.path + ("?" + parts.query if parts.query else "")
    connection.request("POST", target, HEAD + picture + TAIL, headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


for line in sys.stdin:
    client, url, app, size = line.rstrip("\n").split("\t")
    picture = b"\xff\xd8\xff" + bytes(int(size) - 3)
    try:
        status, body = (by_requests if client == "requests" else by_http_client)(url, app, picture)
        print(status, " ".join(body.split("\n")), flush=True)
    except Exception as e:
        print(repr(e).replace("\n", " "), flush=True)
