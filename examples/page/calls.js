// The page's calls as they are made from a shell and from a mini program.

// curlFile puts a name behind curl's "@", where ";" and "," would end it.
const curlFile = name => /[;,"\\]/.test(name) ? `"${name.replace(/["\\]/g, '\\$&')}"` : name

const shellWord = word => /^[\w@=./:-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`

export function curl(endpoint, name, mediaID) {
	const back = 'back' + (name.match(/\.\w+$/)?.[0] ?? '')
	return `curl -F ${shellWord('media=@' + curlFile(name))} ${endpoint}\n` +
		`curl -o ${back} ${shellWord(`${endpoint}/${mediaID}`)}`
}

export const wxUpload = (endpoint, name) => `wx.uploadFile({
  url: ${JSON.stringify(endpoint)},
  filePath: wx.env.USER_DATA_PATH + ${JSON.stringify('/' + name)}, // or a tempFilePath
  name: "media",
  success: ({ data }) => console.log(JSON.parse(data).media_id),
  fail: console.error,
})`

export const wxDownload = (endpoint, mediaID) => `wx.downloadFile({
  url: ${JSON.stringify(`${endpoint}/${mediaID}`)},
  success: ({ tempFilePath }) => console.log(tempFilePath),
  fail: console.error,
})`
