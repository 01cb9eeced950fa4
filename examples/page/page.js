// A picture goes up to the gateway and comes back, and the page shows what happens.

import { curl, wxDownload, wxUpload } from './calls.js'
import { errorOf, texts } from './texts.js'

const $ = id => document.getElementById(id)

const endpoint = location.origin + '/media'
const mediaLife = 3 * 24 * 3600 // seconds; WeChat's, for temporary media

// Failure is a reason that texts has words for, and what the other side said.
class Failure extends Error {
	constructor(reason, said = '') {
		super(said)
		this.reason = reason
	}
}

// parseReply reads WeChat's JSON. Errors may come with status 200.
function parseReply(body) {
	let reply
	try {
		reply = JSON.parse(body)
	} catch {
		throw new Failure('other', body.slice(0, 200))
	}
	if (reply.errcode) throw new Failure(errorOf[reply.errcode] ?? 'other', `errcode ${reply.errcode}: ${reply.errmsg}`)
	return reply
}

// upload uses XMLHttpRequest, because fetch does not tell how far it is.
function upload(file, signal, onprogress) {
	return new Promise((resolve, reject) => {
		const form = new FormData()
		form.append('media', file)
		const xhr = new XMLHttpRequest()
		xhr.upload.onprogress = e => onprogress(e.loaded / e.total)
		xhr.onload = () => resolve(xhr.responseText)
		xhr.onerror = xhr.onabort = () => reject(new Failure('unreachable'))
		signal.onabort = () => xhr.abort()
		xhr.open('POST', endpoint)
		xhr.send(form)
	}).then(parseReply)
}

async function download(mediaID, signal) {
	const get = async () => (await fetch(`${endpoint}/${mediaID}`, { cache: 'no-store', signal })).blob()
	const blob = await get().catch(() => { throw new Failure('unreachable') })
	if (!blob.type.startsWith('image/')) parseReply(await blob.text())
	return blob
}

async function sha256(buffer) {
	const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', buffer))
	return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('')
}

// roundTrip sends the bytes that it has read: the file may change meanwhile.
async function roundTrip(file, signal, report) {
	if (file.size > $('file').dataset.maxSize) throw new Failure('notSent')
	const sent = await file.arrayBuffer().catch(() => { throw new Failure('unreadable') })
	const reply = await upload(new File([sent], file.name, { type: file.type }), signal, progress => {
		report({ phase: progress < 1 ? 'sending' : 'waiting', progress })
	})
	report({ phase: 'fetching', mediaID: reply.media_id, until: reply.created_at + mediaLife })
	const back = await download(reply.media_id, signal)
	const [before, after] = await Promise.all([sent, await back.arrayBuffer()].map(sha256))
	report({ phase: before === after ? 'equal' : 'different', size: back.size, sha256: after, picture: URL.createObjectURL(back) })
}

let state = { phase: 'idle', abort() {} } // of the file that was chosen last

// take begins with a file and leaves the one before.
async function take(file) {
	if (!file) return
	state.abort()
	URL.revokeObjectURL(state.picture)
	const abort = new AbortController()
	const mine = state = { phase: 'sending', file, progress: 0, abort: () => abort.abort() }
	const report = change => show(Object.assign(mine, change))
	report()
	await roundTrip(file, abort.signal, report).catch(failure => report({ phase: 'failed', failure }))
}

const asked = new URLSearchParams(location.search).get('lang') ?? navigator.language
let language = asked.startsWith('zh') ? 'zh' : 'en'

// say changes a text only if it is another one: screen readers read it out.
function say(element, text) {
	if (element.textContent !== text) element.textContent = text
}

// show puts the state on the page.
function show() {
	const t = texts[language]
	const { phase, file, failure, unseen, progress, mediaID } = state
	document.body.className = phase
	say($('message'), t.phases[phase === 'failed' && mediaID ? 'notFetched' : phase](file?.name))
	say($('reason'), failure ? t.errors[failure.reason] ?? t.errors.other : unseen ? t.noPicture : '')
	say($('said'), failure?.message ?? '')

	$('progress').parentElement.hidden = !['sending', 'waiting', 'fetching'].includes(phase)
	$('progress').value = progress ?? 0
	say($('percent'), `${Math.round(100 * progress)} %`)
	showResult(t)

	const name = file?.name ?? 'photo.jpg'
	say($('curl'), curl(endpoint, name, mediaID ?? '<media_id>'))
	say($('wx-upload'), wxUpload(endpoint, name))
	say($('wx-download'), wxDownload(endpoint, mediaID ?? '<media_id>'))
}

function showResult(t) {
	const { file, mediaID, until, picture, unseen = false, size, sha256 } = state
	$('result').hidden = !picture
	if (!picture) return
	if ($('picture').src !== picture) $('picture').src = picture
	$('picture').alt = file.name
	$('picture').hidden = unseen
	say($('media_id'), mediaID)
	say($('until'), new Date(until * 1000).toLocaleString(language, { dateStyle: 'long', timeStyle: 'short' }))
	say($('size'), t.bytes(size.toLocaleString(language)))
	say($('sha256'), sha256)
}

function speak(newLanguage) {
	language = newLanguage
	const t = texts[language]
	document.documentElement.lang = language
	document.title = t.title
	for (const element of document.querySelectorAll('[data-text]')) say(element, t[element.dataset.text])
	for (const button of document.querySelectorAll('[data-copy]')) {
		say(button, t.copy)
		button.setAttribute('aria-label', `${t.copy}: ${button.dataset.copy}`)
	}
	show()
}

$('language').onclick = () => {
	speak(language === 'zh' ? 'en' : 'zh')
	history.replaceState(null, '', '?lang=' + language)
}

$('file').onchange = ({ target }) => {
	take(target.files[0])
	target.value = '' // so that the same file can be chosen again
}

document.onpaste = e => take(e.clipboardData.files[0])
document.ondragover = document.ondragleave = document.ondrop = e => {
	e.preventDefault() // the browser would show the file in place of the page
	$('drop').classList.toggle('over', e.type === 'dragover' || e.type === 'dragleave' && e.relatedTarget !== null)
	if (e.type === 'drop') take(e.dataTransfer.files[0])
}

$('picture').onerror = () => show(state.unseen = true)

for (const button of document.querySelectorAll('[data-copy]')) {
	button.onclick = async () => {
		await navigator.clipboard.writeText($(button.dataset.copy).textContent)
		say(button, texts[language].copied)
		setTimeout(() => say(button, texts[language].copy), 2000)
	}
}

speak(language)
