import re

def show(what, answer):
    text = repr(answer)
    text = re.sub(r'\(\d+\.\d+( \+ \d+\.\d+)* secs?\)', '(TIME)', text)
    text = re.sub(r'(MAILBOXID|EMAILID|THREADID) \(\w+\)', r'\1 (ID)', text)
    text = re.sub(r'\b\d{9,}\b', 'EPOCH', text)
    print(what, text)

mails = [
    b'Subject: first\r\nFrom: a@example.test\r\n\r\nbody\r\n',
    b'Subject: second\r\n\r\nA1 OK no answer\r\n* 99 EXISTS {3}\r\n* BYE\r\n+ go\r\n',
    'Subject: third =?utf-8?b?w6Q=?=\r\n\r\nä ö ü €\r\n'.encode(),
]
date = '"02-Mar-2026 10:00:00 +0000"'

show('noop', c.noop())
show('namespace', c.namespace())
show('create', c.create('Archive'))
show('create again', c.create('Archive')[0])
show('subscribe', c.subscribe('Archive'))
show('list', c.list('""', 'A*'))
show('lsub', c.lsub('""', 'A*'))
for number, mail in enumerate(mails):
    show('append', c.append('INBOX', '(\\Flagged)' if number == 1 else None, date, mail))
show('append nowhere', c.append('nowhere', None, date, mails[0])[0])
show('status', c.status('INBOX', '(MESSAGES UIDNEXT UNSEEN)'))
show('select', c.select('INBOX'))
show('flags', c.response('PERMANENTFLAGS'))
show('search', c.search(None, 'FLAGGED'))
show('search text', c.search('UTF-8', 'SUBJECT', 'third'))
show('fetch', c.fetch('1:*', '(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)'))
for number in range(1, 4):
    answer = c.fetch(str(number), '(BODY.PEEK[])')
    show('whole', answer)
    assert answer[1][0][1] == mails[number - 1]
show('partial', c.fetch('2', '(BODY.PEEK[TEXT]<3.10>)'))
show('sort', c.sort('SUBJECT', 'UTF-8', 'ALL'))
show('thread', c.thread('REFERENCES', 'UTF-8', 'ALL'))
show('store', c.store('1', '+FLAGS', '(\\Seen \\Answered)'))
show('uid store', c.uid('STORE', '3', 'FLAGS', '(\\Draft)'))
show('copy', c.copy('1:2', 'Archive'))
show('uid copy', c.uid('COPY', '3', 'Archive'))
capabilities = c.capability()[1][0].decode().split()
if 'MOVE' in capabilities:
    show('move', c.uid('MOVE', '1', 'Archive'))
show('store deleted', c.store('1', '+FLAGS', '(\\Deleted)'))
show('expunge', c.expunge())
show('after expunge', c.search(None, 'ALL'))
show('bad', c.uid('FETCH', '99:100', '(FLAGS)'))
try:
    show('wrong', c.fetch('1', 'NONSENSE'))
except imaplib.IMAP4.error as error:
    show('wrong', type(error).__name__)

other = connect()
tag = c._new_tag()
c.send(tag + b' IDLE\r\n')
line = c.readline()
while not line.startswith(b'+'):
    line = c.readline()
other.append('INBOX', None, date, mails[0])
while b' EXISTS' not in line:
    line = c.readline()
show('idle saw', line)
c.send(b'DONE\r\n')
while not line.startswith(tag):
    line = c.readline()
show('idle', line[len(tag):])
other.logout()

show('fetch new', c.fetch('2', '(BODY.PEEK[])') if 'MOVE' in capabilities else None)
show('unselect', c.unselect() if 'UNSELECT' in capabilities else None)
show('select archive', c.select('Archive', readonly=True))
show('archive', c.fetch('1:*', '(UID FLAGS BODY.PEEK[])'))
show('close', c.close())
show('rename', c.rename('Archive', 'Old things'.join(['"', '"'])))
show('list', c.list())
show('delete', c.delete('"Old things"'))
show('status gone', c.status('"Old things"', '(MESSAGES)')[0])
