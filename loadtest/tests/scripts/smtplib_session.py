"""One session of Python's smtplib against a submission port: PORT CA PASSWORD FOLDER.

The folder holds the messages: `8bit`, `utf8`, `dsn`, as they are to arrive.
"""
import smtplib
import ssl
import sys

port, ca, password, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)


def text(name):
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


with smtplib.SMTP("localhost", port, local_hostname="client.test") as s:
    s.starttls(context=context)
    s.login("alice", password)
    s.sendmail("alice@d0001.test", ["b@d0002.test"], text("8bit"), mail_options=["BODY=8BITMIME"])
    s.sendmail(
        "älice@d0001.test", ["bøb@d0002.test"], text("utf8"), mail_options=["SMTPUTF8", "BODY=8BITMIME"]
    )
    s.sendmail(
        "alice@d0001.test",
        ["b@d0002.test"],
        text("dsn"),
        mail_options=["RET=HDRS", "ENVID=env+2Bid"],
        rcpt_options=["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;orig+2Binal@d0003.test"],
    )
