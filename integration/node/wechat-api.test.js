// wechat-api, with its endpoint changed.

'use strict'

const assert = require('node:assert/strict')
const { promisify } = require('node:util')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')

const WechatAPI = require('wechat-api')

const { forSDKs, picture } = require('./gateways')

test('a picture goes up and comes back', async t => {
	const api = new WechatAPI('made-up', 'made-up')
	api.endpoint = forSDKs
	const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wechat-node-'))
	t.after(() => fs.rmSync(dir, { recursive: true }))
	const file = path.join(dir, 'photo.jpg')
	const sent = picture(300_000)
	fs.writeFileSync(file, sent)
	const { media_id } = await promisify(api.uploadMedia).call(api, file, 'image')
	const back = await promisify(api.getMedia).call(api, media_id)
	assert.ok(sent.equals(back), `${back.length} bytes came back`)
})
