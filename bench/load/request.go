package load

// The bytes of the request, and what is read out of a reply's head.

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/caddy-wechat/caddy-wechat-media/bench/media"
)

const (
	maxHead      = 8 << 10
	uploadedText = `{"type":"image","media_id":"`
)

func isTLS(rawURL string) bool { return len(rawURL) > 5 && rawURL[:6] == "https:" }

// target is the path and query that the request is for.
func target(o Options) string {
	switch {
	case !isTLS(o.URL) && o.Method == "GET":
		return "/media/" + media.ID(o.Size)
	case !isTLS(o.URL):
		return "/media"
	case o.Method == "GET":
		return "/cgi-bin/media/get?access_token=" + o.Token + "&media_id=" + media.ID(o.Size)
	}
	return "/cgi-bin/media/upload?access_token=" + o.Token + "&type=image"
}

// requestBytes is the whole request, and the address that it goes to.
func requestBytes(o Options) (request []byte, addr string, err error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n", o.Method, target(o), u.Host)
	if o.Method == "POST" {
		form := media.Form(o.Size)
		fmt.Fprintf(&b, "Content-Type: %s\r\nContent-Length: %d\r\n\r\n", media.FormType, len(form))
		b.Write(form)
	} else {
		b.WriteString("\r\n")
	}
	return b.Bytes(), u.Host, nil
}

// replyHead finds out where the body begins and how long it is; begins is 0 if
// that cannot be told yet.
func replyHead(b []byte) (begins, length int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) >= maxHead {
			return 0, 0, errors.New("the reply's head is too long")
		}
		return 0, 0, nil
	}
	head := b[:end]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return 0, 0, fmt.Errorf("the reply is %q", b)
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(": "))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			length, err = strconv.Atoi(string(value))
			return end + 4, length, err
		}
	}
	return 0, 0, fmt.Errorf("the reply has no Content-Length: %q", head)
}

// checkReply compares what the head and the first bytes say with what was asked
// for. Errors of WeChat's have status 200 too.
func checkReply(o Options, length int, start []byte) error {
	switch {
	case o.Method == "GET" && length != o.Size:
		return fmt.Errorf("the reply has %d bytes instead of %d: %q", length, o.Size, start)
	case o.Method == "POST" && !bytes.HasPrefix(start, []byte(uploadedText)):
		return fmt.Errorf("the upload was answered with %q", start)
	}
	return nil
}
