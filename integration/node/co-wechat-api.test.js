// An SDK that knows nothing of the gateway works with it when its prefix is changed.

'use strict'

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const { randomBytes } = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { after, before, test } = require('node:test')

const WechatAPI = require('co-wechat-api')

const { buildGateway, recipe, startGateway } = require('./gateway')

let gateway
before(() => { gateway = buildGateway() })
after(() => gateway.remove())

// sdk has its base URL changed, and an app that nobody has heard of.
function sdk(base) {
	const api = new WechatAPI('made-up', 'made-up')
	api.prefix = base + '/cgi-bin/'
	return api
}

function tempDir(t) {
	const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wechat-node-'))
	t.after(() => fs.rmSync(dir, { recursive: true }))
	return dir
}

test('pictures go up and come back', async t => {
	const api = sdk(await startGateway(t, gateway.binary, 'sdk_tokens'))
	const file = path.join(tempDir(t), 'photo.jpg')
	for (const size of [1, 300_000, 5 << 20]) {
		const picture = randomBytes(size)
		fs.writeFileSync(file, picture)
		for (const { media_id } of [
			await api.uploadMedia(file, 'image'),
			await api.uploadMedia(picture, 'image', 'photo.jpg', 'image/jpeg'),
		]) {
			const back = await api.getMedia(media_id)
			assert.ok(picture.equals(back), `${back.length} bytes came back, ${size} went up`)
		}
	}
})

test("WeChat's errors reach the SDK", async t => {
	const api = sdk(await startGateway(t, gateway.binary, 'sdk_tokens'))
	await assert.rejects(api.uploadMedia(Buffer.from('text'), 'image', 'photo.txt', 'text/plain'), { code: 40005 })
	await assert.rejects(api.getMedia('x'.repeat(64)), { code: 40007 })
	// the gateway's own have a status, which is all that the SDK looks at then
	await assert.rejects(api.uploadMedia(Buffer.from('film'), 'video', 'film.mp4', 'video/mp4'), /status code: 400/)
})

test('without sdk_tokens the SDK gets no token', async t => {
	const api = sdk(await startGateway(t, gateway.binary))
	await assert.rejects(api.getAccessToken(), /status code: 404/)
	await assert.rejects(api.uploadMedia(Buffer.from('picture'), 'image', 'photo.jpg', 'image/jpeg'), /status code: 404/)
})

test('the SDK can send a key', async t => {
	const site = '@stranger not header Authorization "Bearer key"\n\trespond @stranger 401'
	const api = sdk(await startGateway(t, gateway.binary, 'sdk_tokens', site))
	const picture = randomBytes(1000)
	await assert.rejects(api.getAccessToken(), /status code: 401/)
	// a new object for each request: the SDK adds the headers of each to the one it is given
	api.setOpts({ get headers() { return { Authorization: 'Bearer key' } } })
	const { media_id } = await api.uploadMedia(picture, 'image', 'photo.jpg', 'image/jpeg')
	assert.ok(picture.equals(await api.getMedia(media_id)))
})

test('the README says how', async t => {
	const base = await startGateway(t, gateway.binary, 'sdk_tokens')
	const dir = tempDir(t)
	fs.symlinkSync(path.join(__dirname, 'node_modules'), path.join(dir, 'node_modules'))
	const picture = randomBytes(300_000)
	fs.writeFileSync(path.join(dir, 'photo.jpg'), picture)
	const code = recipe('co-wechat-api')
	assert.ok(code.includes('http://localhost:8080'), code)
	fs.writeFileSync(path.join(dir, 'recipe.mjs'), code.replaceAll('http://localhost:8080', base) +
		"\nimport { writeFileSync } from 'node:fs'\nwriteFileSync('back.jpg', picture)\n")
	execFileSync(process.execPath, ['recipe.mjs'], { cwd: dir, stdio: 'inherit' })
	assert.ok(picture.equals(fs.readFileSync(path.join(dir, 'back.jpg'))))
})
