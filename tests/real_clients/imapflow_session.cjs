// One session of imapflow: every step checks what it got and prints its name.
'use strict';
const assert = require('assert');
const fs = require('fs');
const { ImapFlow } = require('imapflow');

const [host, port, security, ca, user, password, ...files] = process.argv.slice(2);
const mails = files.map((file) => fs.readFileSync(file));

// Says when the server lets the client wait.
const quiet = () => {};
const heard = ({ src, msg }) => {
    if (src === 's' && /^\+ idling/.test(msg)) console.log('idling');
};
const logger = { trace: heard, debug: heard, info: quiet, warn: quiet, error: quiet, fatal: quiet };

const account = (pass) => ({
    host,
    port: Number(port),
    secure: security === 'implicit',
    doSTARTTLS: security === 'starttls' ? true : undefined,
    tls: { ca: fs.readFileSync(ca) },
    auth: { user, pass },
    logger,
});

async function refused() {
    const client = new ImapFlow(account(`${password}wrong`));
    client.on('error', () => {});
    const error = await client.connect().then(() => null, (error) => error);
    assert(error && error.authenticationFailed, error);
    assert.strictEqual(error.serverResponseCode, 'AUTHENTICATIONFAILED');
}

async function session() {
    await refused();
    const client = new ImapFlow({ ...account(password), disableAutoIdle: true });
    await client.connect();
    console.log('login');

    await client.mailboxCreate('Entwürfe & mehr');
    const names = (await client.list()).map((mailbox) => mailbox.path);
    assert(names.includes('INBOX') && names.includes('Entwürfe & mehr'), String(names));
    console.log('list');

    for (const mail of mails) {
        await client.append('INBOX', mail, mail === mails[0] ? ['\\Flagged'] : []);
    }
    const mailbox = await client.mailboxOpen('INBOX');
    assert.strictEqual(mailbox.exists, mails.length);
    console.log('append');

    for (const [at, mail] of mails.entries()) {
        const { source } = await client.fetchOne(String(at + 1), { source: true });
        assert(source.equals(mail), `mail ${at} came back changed`);
        const { content } = await client.download(String(at + 1));
        const parts = [];
        for await (const part of content) parts.push(part);
        assert(Buffer.concat(parts).equals(mail), `mail ${at} downloaded is changed`);
    }
    console.log('fetch');

    assert.deepStrictEqual(await client.search({ flagged: true }), [1]);
    assert.deepStrictEqual(await client.search({ subject: 'difficult 2' }), [3]);
    console.log('search');

    await client.messageFlagsAdd('2', ['\\Answered', 'kept']);
    const { flags } = await client.fetchOne('2', { flags: true });
    assert(flags.has('\\Answered') && flags.has('kept'), [...flags].join());
    console.log('flags');

    const moved = await client.messageMove('1', 'Entwürfe & mehr');
    assert.strictEqual(moved.uidMap.size, 1);
    assert.strictEqual((await client.search({ all: true })).length, mails.length - 1);
    console.log('move');

    const woken = new Promise((resolve) => client.once('exists', resolve));
    const idling = client.idle();
    assert.strictEqual((await woken).count, mails.length);
    const { envelope } = await client.fetchOne('*', { envelope: true });
    assert.strictEqual(envelope.subject, 'wake up');
    await idling;
    console.log('idle');
    await client.logout();
}

// A timer of the refused connection would keep the program alive for a while.
session().then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
