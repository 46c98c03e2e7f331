-- One session of imapfilter: every step checks what it got and prints its name.
options.timeout = 60
options.certificates = true
options.keepalive = 1

local account = IMAP {
    server = 'localhost',
    port = tonumber(os.getenv('TEST_PORT')),
    username = os.getenv('TEST_USER'),
    password = os.getenv('TEST_PASSWORD'),
    ssl = os.getenv('TEST_SSL'),
}
local function step(name)
    print(name)
    io.stdout:flush()
end

assert(account:create_mailbox('Archive'))
step('login')

local names = table.concat(account:list_all(), ' ')
assert(names:find('INBOX') and names:find('Archive'), names)
step('list')

for number = 0, 5 do
    local file = assert(io.open(os.getenv('HOME') .. '/mail-' .. number, 'rb'))
    assert(account.INBOX:append_message(file:read('*a')))
    file:close()
end
assert(account.INBOX:check_status() == 6)
step('append')

for _, message in ipairs(account.INBOX:select_all()) do
    local mailbox, uid = table.unpack(message)
    local file = assert(io.open(os.getenv('HOME') .. '/fetched/' .. uid, 'wb'))
    file:write(mailbox[uid]:fetch_message())
    file:close()
end
step('fetch')

local second = account.INBOX:contain_subject('difficult 1')
assert(#second == 1)
step('search')

second:add_flags({ '\\Answered', 'kept' })
assert(#account.INBOX:is_answered() == 1)
step('flags')

account.INBOX:contain_subject('difficult 0'):move_messages(account.Archive)
assert(#account.INBOX:select_all() == 5)
step('move')

step('idling')
assert(account.INBOX:enter_idle())
assert(#account.INBOX:contain_subject('wake up') == 1)
step('idle')
account:logout()
