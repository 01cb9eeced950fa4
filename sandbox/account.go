package sandbox

// Accounts, and the quotas of their owners.

import (
	"strings"
	"time"
)

// account is what a secret belongs to: an app of WeChat's, or an agent of a corp.
type account struct {
	id, secret string
	*owner
	stable, classic tokenLine
	forced          []time.Time // of the last day
}

// owner is whom media and quotas belong to: an app has its own, and the agents of a
// corp share the corp's.
type owner struct {
	platform *platform
	quotas   map[Endpoint]*quota
}

func newOwner(p *platform) *owner { return &owner{platform: p, quotas: make(map[Endpoint]*quota)} }

func newApps(secrets map[string]string) map[string]*account {
	apps := make(map[string]*account, len(secrets))
	for id, secret := range secrets {
		apps[id] = &account{id: id, secret: secret, owner: newOwner(wechat)}
	}
	return apps
}

func newCorps(secrets map[string]string) map[string]*account {
	corps := make(map[string]*account, len(secrets))
	owners := make(map[string]*owner)
	for id, secret := range secrets {
		corpID, _, _ := strings.Cut(id, "/")
		if owners[corpID] == nil {
			owners[corpID] = newOwner(wecom)
		}
		corps[id] = &account{id: id, secret: secret, owner: owners[corpID]}
	}
	return corps
}

// account returns the one with an id as it is in Options, or nil.
func (s *Server) account(id string) *account {
	if a := s.apps[id]; a != nil {
		return a
	}
	return s.corps[id]
}

// quota counts the calls of a day and of a minute, as WeChat's own clock has them.
type quota struct {
	day, minute             int64
	thisDay, callsInAMinute int
}

// wechatTime is the time zone in which quotas start anew.
var wechatTime = time.FixedZone("CST", 8*60*60)

// spend counts a call, and refuses it beyond the quota. s.mu is held.
func (s *Server) spend(o *owner, endpoint Endpoint) *apiError {
	now := s.opts.Now().In(wechatTime)
	_, offset := now.Zone()
	day, minute := (now.Unix()+int64(offset))/86400, now.Unix()/60
	q := o.quotas[endpoint]
	if q == nil {
		q = new(quota)
		o.quotas[endpoint] = q
	}
	if q.day != day {
		q.day, q.thisDay = day, 0
	}
	if q.minute != minute {
		q.minute, q.callsInAMinute = minute, 0
	}
	q.thisDay++
	q.callsInAMinute++
	daily, minutely := s.opts.DailyQuota, s.opts.MinuteQuota
	if daily == nil {
		daily = o.platform.dailyQuota
	}
	if minutely == nil {
		minutely = o.platform.minuteQuota
	}
	if limit, ok := daily[endpoint]; ok && q.thisDay > limit {
		return errDailyQuota
	}
	if limit, ok := minutely[endpoint]; ok && q.callsInAMinute > limit {
		return o.platform.overMinuteQuota
	}
	return nil
}
