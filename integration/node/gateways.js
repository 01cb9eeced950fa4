// What node_test.go has started, and pictures.

'use strict'

const { randomBytes } = require('node:crypto')

function given(name) {
	if (!process.env[name]) throw new Error(`${name} is missing: go test runs these tests`)
	return process.env[name]
}

// picture is what the sandbox takes for a JPEG of that many bytes.
function picture(size) {
	const bytes = randomBytes(size)
	bytes.set([0xff, 0xd8, 0xff])
	return bytes
}

module.exports = {
	plain: given('GATEWAY'),
	forSDKs: given('GATEWAY_FOR_SDKS'),
	forWeCom: given('GATEWAY_FOR_WECOM'),
	withKey: given('GATEWAY_WITH_KEY'), // a caller needs the header Authorization: Bearer key
	recipes: { sdk: given('RECIPE_SDK'), miniProgram: given('RECIPE_MINI_PROGRAM') },
	picture,
}
