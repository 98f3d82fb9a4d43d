"""Parallel sessions of aiosmtplib over implicit TLS: PORT CA PASSWORD SESSIONS MESSAGES."""
import asyncio
import ssl
import sys

import aiosmtplib

port, ca, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sessions, messages = int(sys.argv[4]), int(sys.argv[5])
context = ssl.create_default_context(cafile=ca)


async def session(number):
    smtp = aiosmtplib.SMTP(hostname="localhost", port=port, use_tls=True, tls_context=context)
    async with smtp:
        await smtp.login("alice", password)
        for i in range(messages):
            text = (
                "From: alice@d0001.test\r\nTo: b@d0002.test\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
                f"Message-ID: <s{number}m{i}@d0001.test>\r\nSubject: parallel\r\n\r\n.dot {number} {i}\r\n"
            )
            await smtp.sendmail("alice@d0001.test", ["b@d0002.test"], text)


async def main():
    await asyncio.gather(*(session(n) for n in range(sessions)))


asyncio.run(main())
