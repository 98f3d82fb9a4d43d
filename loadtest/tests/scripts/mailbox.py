"""Reads a mailbox over IMAP and over POP3: IMAP-PORT POP3-PORT USER PASSWORD.

Prints a JSON list of messages, in which each octet is the character of the same number. Fails if the two differ.
"""
import imaplib
import json
import poplib
import sys

imap_port, pop3_port, user, password = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
poplib._MAXLINE = 1 << 20

with imaplib.IMAP4("127.0.0.1", imap_port) as imap:
    imap.login(user, password)
    imap.select(readonly=True)
    numbers = imap.search(None, "ALL")[1][0].split()
    by_imap = [imap.fetch(n, "(BODY.PEEK[])")[1][0][1] for n in numbers]

pop = poplib.POP3("127.0.0.1", pop3_port)
pop.user(user)
pop.pass_(password)
by_pop = [b"".join(line + b"\r\n" for line in pop.retr(n + 1)[1]) for n in range(pop.stat()[0])]
pop.quit()

if by_imap != by_pop:
    sys.exit(f"IMAP: {by_imap}\nPOP3: {by_pop}")
json.dump([message.decode("latin-1") for message in by_imap], sys.stdout)
