# One session of aioimaplib: every step checks what it got and prints its name.
import asyncio, ssl, sys
from aioimaplib import aioimaplib

host, port, security, ca, user, password = sys.argv[1:7]
mails = [open(path, 'rb').read() for path in sys.argv[7:]]
context = ssl.create_default_context(cafile=ca)

async def ok(what):
    answer = await what
    assert answer.result == 'OK', answer
    return answer.lines

async def session():
    assert security == 'implicit', 'aioimaplib has no STARTTLS'
    client = aioimaplib.IMAP4_SSL(host, int(port), ssl_context=context, timeout=60)
    await client.wait_hello_from_server()
    answer = await client.login(user, f'{password}wrong')
    assert answer.result == 'NO' and b'AUTHENTICATIONFAILED' in answer.lines[0], answer
    await ok(client.login(user, password))
    print('login')

    await ok(client.create('Archive'))
    lines = await ok(client.list('""', '*'))
    assert any(b'Archive' in line for line in lines), lines
    print('list')

    for mail in mails:
        flags = '\\Flagged' if mail is mails[0] else None
        await ok(client.append(mail, mailbox='INBOX', flags=flags))
    lines = await ok(client.select('INBOX'))
    assert f'{len(mails)} EXISTS'.encode() in lines, lines
    print('append')

    for number, mail in enumerate(mails, 1):
        lines = await ok(client.fetch(str(number), 'BODY.PEEK[]'))
        assert bytes(lines[1]) == mail, (number, lines)
    print('fetch')

    assert (await ok(client.search('FLAGGED')))[0] == b'1'
    assert (await ok(client.search('SUBJECT "difficult 2"')))[0] == b'3'
    print('search')

    await ok(client.store('2', '+FLAGS', r'(\Answered)'))
    assert (await ok(client.search('ANSWERED')))[0] == b'2'
    print('flags')

    uid = (await ok(client.uid_search('1')))[0].decode()
    await ok(client.uid('move', uid, 'Archive'))
    assert len((await ok(client.search('ALL')))[0].split()) == len(mails) - 1
    print('move')

    idle = await client.idle_start(timeout=60)
    print('idling', flush=True)
    exists = f'{len(mails)} EXISTS'.encode()
    while exists not in await client.wait_server_push(timeout=60):
        pass
    client.idle_done()
    await asyncio.wait_for(idle, 60)
    lines = await ok(client.fetch(str(len(mails)), 'BODY.PEEK[]'))
    assert b'wake up' in lines[1]
    print('idle')
    await ok(client.logout())

asyncio.run(session())
