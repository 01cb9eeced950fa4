// An SDK that knows nothing of the gateway works with it when its prefix is changed.

'use strict'

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')

const WechatAPI = require('co-wechat-api')

const { plain, forSDKs, withKey, recipes, picture } = require('./gateways')

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
	const api = sdk(forSDKs)
	const file = path.join(tempDir(t), 'photo.jpg')
	for (const size of [3, 300_000, 5 << 20]) {
		const sent = picture(size)
		fs.writeFileSync(file, sent)
		for (const { media_id } of [
			await api.uploadMedia(file, 'image'),
			await api.uploadMedia(sent, 'image', 'photo.jpg', 'image/jpeg'),
		]) {
			const back = await api.getMedia(media_id)
			assert.ok(sent.equals(back), `${back.length} bytes came back, ${size} went up`)
		}
	}
})

test("WeChat's errors reach the SDK", async () => {
	const api = sdk(forSDKs)
	await assert.rejects(api.uploadMedia(Buffer.from('text'), 'image', 'photo.txt', 'text/plain'), { code: 40005 })
	await assert.rejects(api.getMedia('x'.repeat(64)), { code: 40007 })
	// the gateway's own have a status, which is all that the SDK looks at then
	await assert.rejects(api.uploadMedia(Buffer.from('film'), 'video', 'film.mp4', 'video/mp4'), /status code: 400/)
})

test('without sdk_tokens the SDK gets no token', async () => {
	const api = sdk(plain)
	await assert.rejects(api.getAccessToken(), /status code: 404/)
	await assert.rejects(api.uploadMedia(picture(100), 'image', 'photo.jpg', 'image/jpeg'), /status code: 404/)
})

test('the SDK can send a key', async () => {
	const api = sdk(withKey)
	const sent = picture(1000)
	await assert.rejects(api.getAccessToken(), /status code: 401/)
	// a new object for each request: the SDK adds the headers of each to the one it is given
	api.setOpts({ get headers() { return { Authorization: 'Bearer key' } } })
	const { media_id } = await api.uploadMedia(sent, 'image', 'photo.jpg', 'image/jpeg')
	assert.ok(sent.equals(await api.getMedia(media_id)))
})

test('the documents say how', async t => {
	const dir = tempDir(t)
	fs.symlinkSync(path.join(__dirname, 'node_modules'), path.join(dir, 'node_modules'))
	const sent = picture(300_000)
	fs.writeFileSync(path.join(dir, 'photo.jpg'), sent)
	assert.ok(recipes.sdk.includes('http://localhost:8080'), recipes.sdk)
	fs.writeFileSync(path.join(dir, 'recipe.mjs'), recipes.sdk.replaceAll('http://localhost:8080', forSDKs) +
		"\nimport { writeFileSync } from 'node:fs'\nwriteFileSync('back.jpg', picture)\n")
	execFileSync(process.execPath, ['recipe.mjs'], { cwd: dir, stdio: 'inherit' })
	assert.ok(sent.equals(fs.readFileSync(path.join(dir, 'back.jpg'))))
})
