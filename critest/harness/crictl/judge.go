package main

import (
	"fmt"
	"maps"
	"slices"

	"podwright.local/critest/status"
)

// verdict is what came of the session with podwright beside the one with the peer.
type verdict struct {
	passed, pending, compared, accepted int
	complaints, waits                   []string
}

func (v *verdict) complain(format string, parts ...any) {
	v.complaints = append(v.complaints, fmt.Sprintf(format, parts...))
}

// judge holds our answers to the peer's and to the lists of STATUS.md. The lists were made for one peer; a loose
// judgement, for another one, leaves out what only tells of the peer.
func judge(mine, peer []answer, pending map[string]status.Pending, accepted []*exception, loose bool) *verdict {
	v := &verdict{}
	theirs := map[string]answer{}
	for _, each := range peer {
		theirs[each.Step] = each
	}
	if !loose {
		v.holdPeer(peer)
	}
	waiting := maps.Clone(pending)
	for _, each := range mine {
		row, listed := pending[each.Step]
		delete(waiting, each.Step)
		switch {
		case each.Wrong == "" && listed:
			v.complain("%s works now, so take it off the list in STATUS.md", each.Step)
		case listed && !row.Explains(each.Stderr):
			v.complain("%s is pending for want of %s, yet that is not why it failed: %s", each.Step, row.RPC, each.Wrong)
		case listed:
			v.pending++
			v.waits = append(v.waits, fmt.Sprintf("%s: %s", each.Step, row))
		case each.Wrong != "":
			v.complain("%s: %s", each.Step, each.Wrong)
		default:
			v.passed++
			v.compare(each, theirs[each.Step], accepted)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		v.complain("STATUS.md lists %q as pending, which is no step", name)
	}
	if !loose {
		v.holdExceptions(accepted)
	}
	return v
}

// holdPeer: what the peer makes of a step shows that the step is right.
func (v *verdict) holdPeer(peer []answer) {
	cannot := peerCannot()
	for _, each := range peer {
		switch why := cannot[each.Step]; {
		case each.Wrong != "" && why == "":
			v.complain("%s, by the peer: %s", each.Step, each.Wrong)
		case each.Wrong == "" && why != "":
			v.complain("%s: the peer can do it, though steps.go says that %s", each.Step, why)
		}
	}
}

func (v *verdict) holdExceptions(accepted []*exception) {
	for _, each := range accepted {
		if !each.used {
			v.complain("STATUS.md accepts %q, which is not missing (any more): take it off the list", each)
		}
	}
}

func (v *verdict) compare(mine, peer answer, accepted []*exception) {
	v.compared += len(peer.Fields)
	for _, field := range missing(mine.Fields, peer.Fields) {
		at := slices.IndexFunc(accepted, func(e *exception) bool { return e.covers(mine.Step, field) })
		if at < 0 {
			v.complain("%s: the peer sets %s, and podwright does not", mine.Step, field)
			continue
		}
		accepted[at].used = true
		v.accepted++
	}
}
