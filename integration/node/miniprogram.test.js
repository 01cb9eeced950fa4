// The documents' code for the client of a mini program, with a stand-in for wx that
// does what the documentation of wx.uploadFile and wx.downloadFile says.

'use strict'

const assert = require('node:assert/strict')
const { test } = require('node:test')

const { plain, recipes, picture } = require('./gateways')

// standInForWx has files in memory, by path. It reaches the gateway at base in
// place of the recipe's own host.
function standInForWx(files) {
	const here = url => url.replace('https://media.example.com', plain)
	const call = async ({ success, fail = error => { throw error } }, work) => {
		try {
			success(await work())
		} catch (error) {
			fail(error)
		}
	}
	return {
		uploadFile: options => call(options, async () => {
			const form = new FormData()
			form.set(options.name, new File([files[options.filePath]], options.filePath.split('/').pop()))
			const res = await fetch(here(options.url), { method: 'POST', headers: options.header, body: form })
			return { data: await res.text(), statusCode: res.status }
		}),
		downloadFile: options => call(options, async () => {
			const res = await fetch(here(options.url), { headers: options.header })
			files['http://tmp/back.jpg'] = Buffer.from(await res.arrayBuffer())
			return { tempFilePath: 'http://tmp/back.jpg', statusCode: res.status }
		}),
	}
}

test('a picture goes up and comes back', async () => {
	const sent = picture(300_000)
	const files = { 'http://tmp/photo.jpg': sent }
	const shown = await new Promise((resolve, reject) => {
		const code = recipes.miniProgram
		assert.match(code, /https:\/\/media\.example\.com\//)
		const run = new Function('wx', 'tempFilePath', 'showPicture', 'showError', code)
		run(standInForWx(files), 'http://tmp/photo.jpg', resolve, reject)
	})
	assert.ok(sent.equals(files[shown]))
})

test('an error is seen for what it is', async () => {
	const error = await new Promise((resolve, reject) => {
		const run = new Function('wx', 'tempFilePath', 'showPicture', 'showError', recipes.miniProgram)
		run(standInForWx({ 'http://tmp/notes.txt': 'text' }), 'http://tmp/notes.txt', reject, resolve)
	})
	assert.match(String(error), /40005/)
})
