# One session of IMAPClient: every step checks what it got and prints its name.
import os, ssl, sys
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

host, port, security, ca, user, password = sys.argv[1:7]
mails = [open(path, 'rb').read() for path in sys.argv[7:]]
context = ssl.create_default_context(cafile=ca)

def connect():
    if security == 'implicit':
        return IMAPClient(host, int(port), ssl=True, ssl_context=context, timeout=60)
    client = IMAPClient(host, int(port), ssl=False, timeout=60)
    client.starttls(context)
    return client

client = connect()
try:
    client.login(user, password + 'wrong')
    sys.exit('the wrong password was taken')
except LoginError as error:
    assert 'AUTHENTICATIONFAILED' in str(error), error
client.login(user, password)
print('login')
client.id_({'name': 'IMAPClient'})

client.create_folder('Entwürfe & mehr')
names = [name for _, _, name in client.list_folders()]
assert 'INBOX' in names and 'Entwürfe & mehr' in names, names
print('list')

for mail in mails:
    client.append('INBOX', mail, flags=[b'\\Flagged'] if mail is mails[0] else [])
client.select_folder('INBOX')
uids = client.search()
assert len(uids) == len(mails), uids
print('append')

for uid, mail in zip(uids, mails):
    assert client.fetch([uid], ['BODY.PEEK[]'])[uid][b'BODY[]'] == mail, uid
print('fetch')

assert client.search(['FLAGGED']) == uids[:1]
assert client.search(['SUBJECT', 'difficult 2']) == uids[2:3]
assert client.search(['HEADER', 'Subject', 'nät'], 'UTF-8') == []
print('search')

client.add_flags(uids[1], [b'\\Answered', b'kept'])
assert {b'\\Answered', b'kept'} <= set(client.get_flags(uids[1])[uids[1]])
print('flags')

client.move(uids[:1], 'Entwürfe & mehr')
assert client.search() == uids[1:]
print('move')

client.idle()
print('idling', flush=True)
seen = []
while not any(answer[1:] == (b'EXISTS',) for answer in seen):
    seen = client.idle_check(timeout=60)
    assert seen, 'nothing in 60 s'
client.idle_done()
assert client.fetch(client.search()[-1], ['ENVELOPE']).popitem()[1][b'ENVELOPE'].subject == b'wake up'
print('idle')
client.logout()
