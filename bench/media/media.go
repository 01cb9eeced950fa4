// Package media has the bodies that are moved, which upstream and load work out
// for themselves, each from a size.
package media

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Sizes are the sizes of what is downloaded, in bytes. 339,721 is the example in
// WeChat's documentation.
var Sizes = []int{100, 32 << 10, 339_721, 2 << 20}

// IDLength is the length of WeChat's media_ids.
const IDLength = 64

// Picture returns a picture of that many bytes, for what a gateway looks at.
func Picture(size int) []byte {
	picture := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	_, _ = source.Read(picture) // never fails
	copy(picture, "\xff\xd8\xff\xe0\x00\x10JFIF\x00")
	return picture
}

// ID is the media_id of the picture of that size.
func ID(size int) string { return fmt.Sprintf("%0*d", IDLength, size) }

// Size is the size of the picture with that media_id, and 0 if there is none.
func Size(id string) int {
	if len(id) != IDLength {
		return 0
	}
	size, err := strconv.Atoi(strings.TrimLeft(id, "0"))
	if err != nil {
		return 0
	}
	return size
}

const boundary = "----a-boundary-of-the-benchmark"

// FormType is the Content-Type of a form.
const FormType = "multipart/form-data; boundary=" + boundary

// Form returns the picture of that size as the body of an upload, which is some
// bytes longer.
func Form(size int) []byte {
	var form bytes.Buffer
	form.WriteString("--" + boundary + "\r\n" +
		`Content-Disposition: form-data; name="media"; filename="photo.jpg"` + "\r\n" +
		"Content-Type: image/jpeg\r\n\r\n")
	form.Write(Picture(size))
	form.WriteString("\r\n--" + boundary + "--\r\n")
	return form.Bytes()
}
