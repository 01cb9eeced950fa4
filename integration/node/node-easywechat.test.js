// node-easywechat, for WeChat and for WeCom, with its base URL changed.

'use strict'

const assert = require('node:assert/strict')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')

const { MiniApp, OfficialAccount, Work } = require('node-easywechat')

const { forSDKs, forWeCom, picture } = require('./gateways')

// config has an account that nobody has heard of.
const config = (base, more) => ({
	app_id: 'made-up', corp_id: 'made-up', secret: 'made-up', token: 'made-up', aes_key: 'made-up',
	http: { baseURL: base + '/' }, ...more,
})

const apps = {
	'mini program': () => new MiniApp(config(forSDKs)),
	'official account': () => new OfficialAccount(config(forSDKs)),
	'official account, with a stable token': () => new OfficialAccount(config(forSDKs, { use_stable_access_token: true })),
	WeCom: () => new Work(config(forWeCom)),
}

for (const [name, app] of Object.entries(apps)) {
	test(`${name}: a picture goes up and comes back`, async t => {
		const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'wechat-node-'))
		t.after(() => fs.rmSync(dir, { recursive: true }))
		const api = app()
		api.getConfig().set('file_cache', { path: dir }) // of tokens
		const [photo, saved] = ['photo.jpg', 'back.jpg'].map(file => path.join(dir, file))
		const sent = picture(300_000)
		fs.writeFileSync(photo, sent)
		const uploaded = await api.getClient().withFile(photo, 'media').post('/cgi-bin/media/upload', { params: { type: 'image' } })
		const { media_id } = uploaded.toObject()
		assert.ok(media_id, uploaded.toString())
		const back = await api.getClient().get('/cgi-bin/media/get', { params: { media_id }, responseType: 'arraybuffer' })
		back.saveAs(saved)
		assert.ok(sent.equals(fs.readFileSync(saved)))
	})
}
