// The gateway, against the sandbox, in a process of its own; and the READMEs' code.

'use strict'

const { execFileSync, spawn } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..', '..')
const secret = 'real-secret-of-the-app'

// buildGateway builds the binary; the caller removes it.
function buildGateway() {
	const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wechat-node-'))
	const binary = path.join(dir, 'caddy')
	execFileSync('go', ['build', '-C', root, '-o', binary, './cmd/caddy'], { stdio: 'inherit' })
	return { binary, remove: () => fs.rmSync(dir, { recursive: true }) }
}

function freePort() {
	return new Promise((resolve, reject) => {
		const server = net.createServer().on('error', reject)
		server.listen(0, '127.0.0.1', () => {
			const { port } = server.address()
			server.close(() => resolve(port))
		})
	})
}

// startGateway runs a gateway until the test t ends, with further options of
// wechat_media and of the site, and resolves to its base URL.
async function startGateway(t, binary, options = '', site = '') {
	const [gateway, wechat] = [await freePort(), await freePort()]
	const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wechat-node-'))
	const file = path.join(dir, 'Caddyfile')
	fs.writeFileSync(file, `{
	admin off
	persist_config off
}
http://127.0.0.1:${gateway} {
	bind 127.0.0.1
	${site}
	wechat_media http://127.0.0.1:${wechat} {
		app wx0123456789abcdef {env.REAL_SECRET}
		${options}
	}
}
http://127.0.0.1:${wechat} {
	bind 127.0.0.1
	wechat_sandbox {
		app wx0123456789abcdef {env.REAL_SECRET}
	}
}
`)
	let log = ''
	const env = { ...process.env, REAL_SECRET: secret, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir }
	const caddy = spawn(binary, ['run', '--config', file, '--adapter', 'caddyfile'], { env })
	caddy.stdout.on('data', data => log += data)
	caddy.stderr.on('data', data => log += data)
	const ended = new Promise(resolve => caddy.on('close', resolve))
	t.after(async () => {
		caddy.kill()
		await ended
		fs.rmSync(dir, { recursive: true })
		if (log.includes(secret)) throw new Error('the log has the secret in it')
	})

	const base = `http://127.0.0.1:${gateway}`
	const deadline = Date.now() + 60_000
	while (caddy.exitCode === null && Date.now() < deadline) {
		try {
			await fetch(base)
			return base
		} catch {
			await new Promise(resolve => setTimeout(resolve, 50))
		}
	}
	throw new Error('the gateway does not listen:\n' + log)
}

// recipe is the one block of JavaScript in the documents that has word in it.
function recipe(word) {
	const documents = ['README.md', 'docs/sdks.md']
	const readme = documents.map(name => fs.readFileSync(path.join(root, name), 'utf8')).join('\n')
	const blocks = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(m => m[1]).filter(code => code.includes(word))
	if (blocks.length !== 1) throw new Error(`${blocks.length} blocks of JavaScript have ${word} in them`)
	return blocks[0]
}

module.exports = { buildGateway, recipe, startGateway }
